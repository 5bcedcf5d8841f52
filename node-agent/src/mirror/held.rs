//! What is held of versions that are not shown any more: it keeps its version, follows, or cannot
//! be read.

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use vsecm_node_agent_api::{
    frame::Bind,
    volume::{OnRotate, VersionDir},
};

use super::{Edition, Followers, Mirror, Node};
use crate::tree::{Child, File, Folder};

impl Mirror {
    /// What READ of `ino` gives; `None` is ESTALE.
    pub fn bytes(&self, ino: u64) -> Option<&[u8]> {
        let (edition, file) = self.readable(ino)?;
        Some(edition.tree().bytes(file))
    }

    /// The file that READ of `ino` reads, and its version.
    pub fn readable(&self, ino: u64) -> Option<(&Edition, &File)> {
        let (edition, file) = match self.followers.get(&ino) {
            Some(path) => {
                let edition = self.found(self.data.as_str())?;
                (edition, edition.tree().file(path)?)
            }
            None => match self.node(ino)? {
                Node::File(edition, file) => (edition, file),
                _ => return None,
            },
        };
        (!edition.is_revoked()).then_some((edition, file))
    }

    /// What the folder `ino` shows: a folder of this version.
    pub(super) fn folder(&self, ino: u64) -> Option<(&Edition, &Folder)> {
        if let Some(path) = self.followers.get(&ino) {
            let edition = self.found(self.data.as_str())?;
            return match edition.tree().at_path(path)? {
                Child::Folder(folder) => Some((edition, folder)),
                Child::File(_) => None,
            };
        }
        match self.node(ino)? {
            Node::Folder(edition, folder) => Some((edition, folder)),
            _ => None,
        }
    }

    /// The file that is shown at the path that `ino` had in its version.
    pub(super) fn namesake(&self, ino: u64) -> Option<&File> {
        match self.shown()?.namesake(ino)? {
            Child::File(file) => Some(file),
            Child::Folder(_) => None,
        }
    }

    /// Size and time of a file. One that cannot be read has the size of the file of its name that
    /// is shown now, and never none: the kernel would answer a read by itself then, with no bytes.
    pub(super) fn size_and_time(&self, ino: u64) -> (usize, SystemTime) {
        if let Some((edition, file)) = self.readable(ino) {
            return (edition.tree().bytes(file).len(), edition.tree().time());
        }
        let namesake = self.shown().and_then(|tree| Some(tree.bytes(self.namesake(ino)?).len()));
        (namesake.unwrap_or_default().max(1), self.time())
    }

    /// No version but the one that is shown can be read any more.
    pub fn revoke_others(&mut self) {
        let data = self.data.clone();
        // also one that csi is about to publish: it may be late
        self.editions.iter_mut().filter(|e| *e.tree().dir() != data).for_each(Edition::revoke);
    }

    /// Nothing that is there can be read any more: what replaces it has no files, and csi may be
    /// away.
    pub fn revoke_all(&mut self) {
        self.revoke_others();
        let data = self.data.clone();
        self.editions.iter_mut().filter(|e| *e.tree().dir() == data).for_each(Edition::revoke);
    }

    /// What is shown can be read again: it is what is to be shown, after all.
    pub fn grant_shown(&mut self) {
        let data = self.data.clone();
        self.editions.iter_mut().filter(|e| *e.tree().dir() == data).for_each(Edition::grant);
    }

    /// Whether nobody can read what is shown.
    pub fn is_revoked(&self) -> bool {
        self.found(self.data.as_str()).is_some_and(Edition::is_revoked)
    }

    /// Inodes of files that cannot be read any more.
    pub fn revoked(&self) -> Vec<u64> {
        let revoked = self.editions.iter().filter(|edition| edition.is_revoked());
        revoked.flat_map(|edition| edition.tree().files()).map(File::ino).collect()
    }

    /// Inodes that follow, and their paths.
    pub fn followers(&self) -> &Arc<Followers> {
        &self.followers
    }

    /// From now on these inodes follow.
    pub fn follow(&mut self, followers: Arc<Followers>) {
        self.followers = followers;
    }

    /// What is to follow, of all that mounts show. A mount of the version that is shown now does
    /// so only once it is not shown any more.
    pub fn following(&self, binds: &[Bind]) -> Followers {
        if self.on_rotate != OnRotate::Follow {
            return Followers::default();
        }
        let old = binds.iter().filter(|bind| bind.dir != self.data);
        old.filter_map(|bind| Some((self.bound_ino(bind)?, bind.path.clone()))).collect()
    }

    /// The inode that a mount shows, said by csi or known by its path.
    fn bound_ino(&self, bind: &Bind) -> Option<u64> {
        let by_path = || {
            let is_it = |e: &&Edition| *e.tree().dir() == bind.dir;
            let tree = self.editions.iter().rev().find(is_it)?.tree();
            tree.at_path(&bind.path).map(Child::ino)
        };
        bind.ino.or_else(by_path)
    }

    /// Numbers of all versions of which mounts may be told yet, where these keep theirs.
    pub fn undecided(&self) -> BTreeSet<u64> {
        if self.on_rotate != OnRotate::Keep {
            return BTreeSet::new();
        }
        let undecided = self.editions.iter().filter(|e| !e.is_retired() || e.is_bound());
        undecided.filter_map(|edition| edition.tree().source().sequence()).collect()
    }

    /// Keeps the versions that mounts show, and no others beyond their time; their numbers in the
    /// order of Safe's word.
    pub fn keep(&mut self, binds: &[Bind]) -> BTreeSet<u64> {
        let bound: BTreeSet<&VersionDir> = binds.iter().map(|bind| &bind.dir).collect();
        let mut kept = BTreeSet::new();
        for edition in &mut self.editions {
            let is_bound = self.on_rotate == OnRotate::Keep && bound.contains(edition.tree().dir());
            edition.bind(is_bound);
            if is_bound {
                kept.extend(edition.tree().source().sequence());
            }
        }
        kept
    }
}
