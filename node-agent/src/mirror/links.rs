//! The names at a volume's root, each a link into `..data`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::DATA;
use crate::inode::{Kind, Numbers};

/// The links at the root.
#[derive(Clone, Debug, Default)]
pub(super) struct Links {
    pub(super) by_name: BTreeMap<Arc<str>, u64>,
    pub(super) by_ino: HashMap<u64, Arc<str>>,
}

impl Links {
    /// Adds a name, unless it is there.
    pub(super) fn add(&mut self, numbers: &Numbers, name: &str) {
        if self.by_name.contains_key(name) {
            return;
        }
        let mut salt = 0;
        let ino = loop {
            let ino = numbers.number(Kind::Link, b"", name, salt);
            if !self.by_ino.contains_key(&ino) {
                break ino;
            }
            salt += 1;
        };
        let name: Arc<str> = name.into();
        self.by_ino.insert(ino, Arc::clone(&name));
        self.by_name.insert(name, ino);
    }

    /// Removes a name.
    pub(super) fn remove(&mut self, name: &str) {
        if let Some(ino) = self.by_name.remove(name) {
            self.by_ino.remove(&ino);
        }
    }
}

/// Where a name at the root points to.
pub fn link_target(name: &str) -> String {
    format!("{DATA}/{name}")
}
