//! Counts what the kernel asks: of files that it has cached it asks nothing.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A name.
    Lookup,
    /// Inodes that the kernel does without.
    Forget,
    /// What `stat` shows.
    Getattr,
    /// A link.
    Readlink,
    /// An open of a file.
    Open,
    /// Content.
    Read,
    /// The end of an open file.
    Release,
    /// A listing.
    Readdir,
    /// What `df` shows.
    Statfs,
    /// One of csi's changes, or somebody's attempt at a change.
    Change,
    /// What the kernel asks once and remembers, and what nobody needs.
    Other,
}

impl Operation {
    /// All, so that a metric has each of them also at zero.
    pub const ALL: [Self; 11] = [
        Self::Lookup,
        Self::Forget,
        Self::Getattr,
        Self::Readlink,
        Self::Open,
        Self::Read,
        Self::Release,
        Self::Readdir,
        Self::Statfs,
        Self::Change,
        Self::Other,
    ];

    /// As metrics label it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Forget => "forget",
            Self::Getattr => "getattr",
            Self::Readlink => "readlink",
            Self::Open => "open",
            Self::Read => "read",
            Self::Release => "release",
            Self::Readdir => "readdir",
            Self::Statfs => "statfs",
            Self::Change => "change",
            Self::Other => "other",
        }
    }
}

/// Requests by operation.
#[derive(Debug, Default)]
pub struct Requests([AtomicU64; Operation::ALL.len()]);

impl Requests {
    /// One more.
    pub(super) fn count(&self, operation: Operation) {
        if let Some(count) = self.0.get(operation as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// How many there were.
    pub fn of(&self, operation: Operation) -> u64 {
        self.0.get(operation as usize).map_or(0, |count| count.load(Relaxed))
    }

    /// How many there were of all kinds.
    pub fn all(&self) -> u64 {
        Operation::ALL.map(|operation| self.of(operation)).iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_has_a_place_of_its_own() {
        let requests = Requests::default();
        for operation in Operation::ALL {
            requests.count(operation);
        }
        for operation in Operation::ALL {
            assert_eq!(requests.of(operation), 1, "{operation:?}");
        }
        assert_eq!(requests.all(), 11);
    }
}
