//! A version, its place in the tree, and how long it is needed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::tree::Tree;

/// A version that is gone from the tree answers for its inodes at least this long: a path walk
/// that had reached its folder is over by then.
pub(super) const WALK_GRACE: Duration = Duration::from_secs(5);

/// A path walk that has read the old `..data` finds the folder for this long.
const PASS_GRACE: Duration = Duration::from_secs(1);

/// A version that came from a predecessor is held by an unknown number of descriptors; this long
/// they can still read pages that the kernel has dropped.
const INHERITED_GRACE: Duration = Duration::from_mins(1);

/// A version and its place.
#[derive(Clone, Debug)]
pub struct Edition {
    tree: Arc<Tree>,
    place: Place,
    origin: Origin,
    since: Instant,
    looked_up: Arc<AtomicI64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Its folder is at the root.
    Listed,
    /// Its folder is gone; held descriptors can still read.
    Retired,
}

/// Who handed the version's inodes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This process: it knows how many the kernel has.
    Own,
    /// A predecessor.
    Inherited,
}

impl Edition {
    pub(super) fn new(tree: Arc<Tree>, origin: Origin) -> Self {
        Self {
            tree,
            place: Place::Listed,
            origin,
            since: Instant::now(),
            looked_up: Arc::default(),
        }
    }

    /// The version.
    pub fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// How often the kernel was given an inode of this version, less what it has forgotten.
    pub fn looked_up(&self) -> &AtomicI64 {
        &self.looked_up
    }

    /// Whether its folder is at the root.
    pub fn is_listed(&self) -> bool {
        self.place == Place::Listed
    }

    /// Whether its folder went so lately that a path walk may still come by.
    pub(super) fn is_passable(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < PASS_GRACE
    }

    /// Takes its folder from the root.
    pub(super) fn retire(&mut self) {
        self.place = Place::Retired;
        self.since = Instant::now();
    }

    /// Whether a path walk may be inside its folder, which went.
    pub(super) fn is_walked(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < WALK_GRACE
    }

    /// Whether somebody may still read it.
    pub(super) fn is_needed(&self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.since);
        let held = match self.origin {
            Origin::Own => self.looked_up.load(Relaxed) > 0,
            Origin::Inherited => age < INHERITED_GRACE,
        };
        self.is_listed() || held || self.is_walked(now)
    }
}
