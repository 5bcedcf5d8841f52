//! A version, its place in the tree, and how long it is needed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::Node;
use crate::tree::{Child, Tree};

/// A version that is gone from the tree answers for its inodes at least this long, though the
/// kernel says that it has none: it may be about to say otherwise.
pub(super) const WALK_GRACE: Duration = Duration::from_secs(1);

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
    /// Its names were taken from the kernel, though who comes late is still given them.
    is_unlinked: bool,
    is_revoked: bool,
    is_bound: bool,
}

/// Where its folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nowhere yet: csi will make it.
    Staged,
    /// At the root.
    Listed,
    /// At the root, though not listed: path walks may be on their way into it.
    Leaving,
    /// Gone; held descriptors can still read.
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
    /// A version whose folder is not made yet.
    pub(super) fn staged(tree: Arc<Tree>) -> Self {
        Self { place: Place::Staged, ..Self::listed(tree, Origin::Own) }
    }

    /// A version whose folder is at the root.
    pub(super) fn listed(tree: Arc<Tree>, origin: Origin) -> Self {
        Self {
            tree,
            place: Place::Listed,
            origin,
            since: Instant::now(),
            looked_up: Arc::default(),
            is_unlinked: false,
            is_revoked: false,
            is_bound: false,
        }
    }

    /// The version.
    pub fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// Its folder.
    pub(super) fn top(&self) -> Node<'_> {
        Node::Folder(self, self.tree.top())
    }

    /// One of its folders or files.
    pub(super) fn node<'a>(&'a self, child: Child<'a>) -> Node<'a> {
        match child {
            Child::Folder(folder) => Node::Folder(self, folder),
            Child::File(file) => Node::File(self, file),
        }
    }

    /// How often the kernel was given an inode of this version, less what it has forgotten.
    pub fn looked_up(&self) -> &AtomicI64 {
        &self.looked_up
    }

    /// Whether its folder is yet to be made.
    pub(super) fn is_staged(&self) -> bool {
        self.place == Place::Staged
    }

    /// Whether its folder is listed at the root.
    pub fn is_listed(&self) -> bool {
        self.place == Place::Listed
    }

    /// Whether its folder is there for late path walks alone.
    pub(super) fn is_leaving(&self) -> bool {
        self.place == Place::Leaving
    }

    /// Whether it has left the root, so that nobody comes to see it by name.
    pub(super) fn is_retired(&self) -> bool {
        self.place == Place::Retired
    }

    /// How long it has been where it is.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    fn put(&mut self, place: Place) {
        self.place = place;
        self.since = Instant::now();
    }

    /// csi has made its folder.
    pub(super) fn list(&mut self) {
        self.put(Place::Listed);
    }

    /// Takes its folder from the listing.
    pub(super) fn leave(&mut self) {
        self.put(Place::Leaving);
    }

    /// Takes its folder from the root.
    pub(super) fn retire(&mut self) {
        self.put(Place::Retired);
    }

    /// csi unlinks its files.
    pub(super) fn unlink(&mut self) {
        self.is_unlinked = true;
    }

    /// Whether its files have no names any more, but for late path walks.
    pub(super) fn is_unlinked(&self) -> bool {
        self.is_unlinked
    }

    /// From now on nobody can read it, who has it open included.
    pub(super) fn revoke(&mut self) {
        self.is_revoked = true;
    }

    /// It can be read again.
    pub(super) fn grant(&mut self) {
        self.is_revoked = false;
    }

    /// Whether nobody can read it.
    pub(super) fn is_revoked(&self) -> bool {
        self.is_revoked
    }

    /// Whether a mount shows it.
    pub(super) fn bind(&mut self, is_bound: bool) {
        self.is_bound = is_bound;
    }

    /// Whether a mount shows it, and it is kept for that.
    pub(super) fn is_bound(&self) -> bool {
        self.is_bound
    }

    /// Whether a path walk may be inside its folder, which went.
    pub(super) fn is_walked(&self, now: Instant) -> bool {
        self.age(now) < WALK_GRACE
    }

    /// Whether somebody may still read it.
    pub(super) fn is_needed(&self, now: Instant) -> bool {
        let held = match self.origin {
            Origin::Own => self.looked_up.load(Relaxed) > 0,
            Origin::Inherited => self.age(now) < INHERITED_GRACE,
        };
        let readable = !self.is_revoked && (self.is_bound || held);
        !self.is_retired() || readable || self.is_walked(now)
    }
}
