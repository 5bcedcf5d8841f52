//! A mirror that one thread serves and another changes.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::mirror::Mirror;

/// Readers take what is shown without a lock; changes come one after the other.
#[derive(Debug)]
pub struct View {
    mirror: ArcSwap<Mirror>,
    writer: Mutex<()>,
}

impl View {
    /// A view that shows `mirror`.
    pub fn new(mirror: Mirror) -> Self {
        Self { mirror: ArcSwap::from_pointee(mirror), writer: Mutex::new(()) }
    }

    /// What is shown now.
    pub fn load(&self) -> Arc<Mirror> {
        self.mirror.load_full()
    }

    /// Shows what `change` makes of it, unless that is refused.
    pub fn change<T, E>(&self, change: impl FnOnce(&mut Mirror) -> Result<T, E>) -> Result<T, E> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut mirror = Mirror::clone(&self.mirror.load());
        let done = change(&mut mirror)?;
        self.mirror.store(Arc::new(mirror));
        drop(writer);
        Ok(done)
    }

    /// As [`Self::change`], for changes that cannot be refused.
    pub fn set<T>(&self, change: impl FnOnce(&mut Mirror) -> T) -> T {
        let changed = self.change(|mirror| Ok::<T, std::convert::Infallible>(change(mirror)));
        match changed {
            Ok(done) => done,
            Err(never) => match never {},
        }
    }
}
