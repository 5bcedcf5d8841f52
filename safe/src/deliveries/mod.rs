//! Who has what, and who waits: in memory only. After a start of Safe it comes back by itself, as
//! node agents report again and hear which of their pods Safe knows nothing of.

mod registry;
mod report;
mod token;
mod watches;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use time::OffsetDateTime;

pub use self::{
    registry::{
        Acknowledged, Counts, Delivered, Delivery, Full, PageError, Registry, Taken, Waits,
        Withdrawn,
    },
    report::{Pod, ReportError, Waiting, claimed},
    token::{Token, TokenError},
    watches::{Open, Refusal, Watches},
};

/// Open watches, deliveries and reports.
#[derive(Debug, Default)]
pub struct Deliveries {
    watches: Arc<Watches>,
    registry: Mutex<Registry>,
    refused: [AtomicU64; Refusal::ALL.len()],
}

impl Deliveries {
    /// The open watches.
    pub fn watches(&self) -> &Arc<Watches> {
        &self.watches
    }

    /// Who has what and who waits.
    pub fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a pod shows, if the watch that it cites has brought that.
    ///
    /// # Errors
    /// [`AcknowledgeError`].
    pub fn acknowledge(
        &self,
        watch: Option<Token>,
        said: Acknowledged,
        now: OffsetDateTime,
    ) -> Result<(), AcknowledgeError> {
        if let Err(refusal) = self.watches.check(watch, &said.key, &said.shown) {
            let refused = Refusal::ALL.iter().zip(&self.refused).find(|(of, _)| **of == refusal);
            if let Some((_, count)) = refused {
                count.fetch_add(1, Ordering::Relaxed);
            }
            return Err(refusal.into());
        }
        Ok(self.registry().acknowledge(said, now)?)
    }

    /// How many acknowledgements were refused, and why.
    pub fn refused(&self) -> impl Iterator<Item = (Refusal, u64)> {
        let counts = self.refused.iter().map(|count| count.load(Ordering::Relaxed));
        Refusal::ALL.into_iter().zip(counts)
    }
}

/// Why an acknowledgement is not taken.
#[derive(Debug, thiserror::Error)]
pub enum AcknowledgeError {
    /// It may be forged.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No room.
    #[error(transparent)]
    Full(#[from] Full),
}
