//! The file operations that csi was asked for, and the refusal of all others.

use std::sync::Arc;

use vsecm_node_agent_api::volume::{OnRotate, VersionDir};

use super::{DATA, DATA_TMP, Mirror, edition::Edition, link_target};
use crate::{inode::ROOT, tree::Child};

/// Why a change is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not part of what csi was asked for.
    #[error("the volume is read-only")]
    ReadOnly,
    /// The name is not there.
    #[error("there is no such name")]
    Missing,
}

/// What csi was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The swap to a version.
    Publish {
        /// What `..data` shall show.
        dir: VersionDir,
        /// Folders whose files it takes the names of, after that.
        replaced: Vec<VersionDir>,
    },
    /// The removal of folders.
    Retire(Vec<VersionDir>),
}

impl Mirror {
    /// csi makes the folder of the version that it is about to publish.
    pub fn mkdir(&mut self, parent: u64, name: &str) -> Result<(), Refusal> {
        let dir = self.publishing_at_root(parent)?.0.clone();
        let is_it = |e: &&mut Edition| e.is_staged() && e.tree().dir().as_str() == name;
        let edition = self.editions.iter_mut().find(is_it).filter(|_edition| dir.as_str() == name);
        edition.ok_or(Refusal::ReadOnly)?.list();
        Ok(())
    }

    /// csi sets the mode of that folder: what a Secret volume's watchers see. It has its mode.
    pub fn chmod(&self, ino: u64) -> Result<(), Refusal> {
        let Some(Expected::Publish { dir, .. }) = &self.expected else {
            return Err(Refusal::ReadOnly);
        };
        let edition = self.found(dir.as_str());
        let is_it = edition.is_some_and(|edition| edition.tree().ino() == ino);
        if is_it { Ok(()) } else { Err(Refusal::ReadOnly) }
    }

    /// csi makes a link at the root.
    pub fn symlink(&mut self, parent: u64, name: &str, target: &str) -> Result<(), Refusal> {
        let (dir, _replaced) = self.publishing_at_root(parent)?;
        if name == DATA_TMP && target == dir.as_str() {
            self.data_tmp = Some(dir.clone());
            return Ok(());
        }
        if !self.will_show(name) || target != link_target(name) {
            return Err(Refusal::ReadOnly);
        }
        let numbers = self.numbers.clone();
        Arc::make_mut(&mut self.links).add(&numbers, name);
        Ok(())
    }

    /// csi renames `..data_tmp` to `..data`: the moment at which readers see the new version.
    pub fn rename(&mut self, from: (u64, &str), to: (u64, &str)) -> Result<(), Refusal> {
        let (dir, _replaced) = self.publishing_at_root(from.0)?;
        let dir = dir.clone();
        // what was not seen being made is not published: a successor does not know where a link
        // that its predecessor accepted points to
        if from.1 != DATA_TMP || to != (ROOT, DATA) || self.data_tmp.as_ref() != Some(&dir) {
            return Err(Refusal::ReadOnly);
        }
        self.data = dir;
        self.data_tmp = None;
        let takes_all = self.shown().is_some_and(|tree| tree.source().is_withdrawal());
        if takes_all || self.on_rotate == OnRotate::Revoke {
            self.revoke_others();
        }
        Ok(())
    }

    /// csi removes a link at the root, or the name of a file that was replaced. Who walks to the
    /// latter still finds it: a walk that has begun does not fail.
    pub fn unlink(&mut self, parent: u64, name: &str) -> Result<(), Refusal> {
        if parent != ROOT {
            return self.unlink_replaced(parent, name);
        }
        self.publishing_at_root(parent)?;
        if name == DATA_TMP {
            return self.data_tmp.take().map(|_dir| ()).ok_or(Refusal::Missing);
        }
        if name == DATA || self.will_show(name) || self.found(name).is_some() {
            return Err(Refusal::ReadOnly);
        }
        if !self.links.by_name.contains_key(name) {
            return Err(Refusal::Missing);
        }
        Arc::make_mut(&mut self.links).remove(name);
        Ok(())
    }

    fn unlink_replaced(&mut self, parent: u64, name: &str) -> Result<(), Refusal> {
        let Some(Expected::Publish { dir, replaced }) = &self.expected else {
            return Err(Refusal::ReadOnly);
        };
        // readers see the new version first
        if self.data != *dir {
            return Err(Refusal::ReadOnly);
        }
        let is_it = |e: &&mut Edition| {
            let tree = e.tree();
            tree.dir() != dir && replaced.contains(tree.dir()) && tree.by_ino(parent).is_some()
        };
        let edition = self.editions.iter_mut().find(is_it).ok_or(Refusal::ReadOnly)?;
        let tree = edition.tree();
        let child = match tree.by_ino(parent) {
            Some(Child::Folder(folder)) => tree.child(folder, name),
            _ => None,
        };
        if !matches!(child, Some(Child::File(_))) {
            return Err(Refusal::Missing);
        }
        edition.unlink();
        Ok(())
    }

    /// csi removes the folder of a version that was replaced, when no path walk can be inside.
    pub fn rmdir(&mut self, parent: u64, name: &str) -> Result<(), Refusal> {
        let Some(Expected::Retire(dirs)) = &self.expected else {
            return Err(Refusal::ReadOnly);
        };
        if parent != ROOT {
            // one below it, which goes with it
            let due = self.editions.iter().filter(|e| e.is_leaving());
            let mut due = due.map(Edition::tree).filter(|tree| dirs.contains(tree.dir()));
            let is_there = due.any(|tree| match tree.by_ino(parent) {
                Some(Child::Folder(folder)) => {
                    matches!(tree.child(folder, name), Some(Child::Folder(_)))
                }
                _ => false,
            });
            return if is_there { Ok(()) } else { Err(Refusal::ReadOnly) };
        }
        let is_it = |e: &&mut Edition| e.is_leaving() && e.tree().dir().as_str() == name;
        let is_due = dirs.iter().any(|dir| dir.as_str() == name);
        let edition = self.editions.iter_mut().find(is_it).filter(|_edition| is_due);
        edition.ok_or(Refusal::ReadOnly)?.retire();
        Ok(())
    }

    fn publishing_at_root(&self, parent: u64) -> Result<(&VersionDir, &[VersionDir]), Refusal> {
        match &self.expected {
            Some(Expected::Publish { dir, replaced }) if parent == ROOT => Ok((dir, replaced)),
            _ => Err(Refusal::ReadOnly),
        }
    }

    /// Whether the version to be published has a file or folder of that name.
    fn will_show(&self, name: &str) -> bool {
        let Some(Expected::Publish { dir, .. }) = &self.expected else { return false };
        let edition = self.found(dir.as_str());
        edition.is_some_and(|edition| {
            let tree = edition.tree();
            tree.child(tree.top(), name).is_some()
        })
    }
}
