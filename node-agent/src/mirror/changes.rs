//! The file operations of csi's swap, and the refusal of all others.

use std::sync::Arc;

use vsecm_node_agent_api::volume::VersionDir;

use super::{DATA, DATA_TMP, Mirror, link_target};
use crate::inode::ROOT;

/// Why a change is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not part of the swap in flight.
    #[error("the volume is read-only")]
    ReadOnly,
    /// The name is not there.
    #[error("there is no such name")]
    Missing,
}

/// The swap that csi was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    /// What `..data` shall show.
    pub publish: VersionDir,
}

impl Mirror {
    /// csi makes a link at the root.
    pub fn symlink(&mut self, parent: u64, name: &str, target: &str) -> Result<(), Refusal> {
        let swap = self.swap_at_root(parent)?;
        if name == DATA_TMP && target == swap.publish.as_str() {
            self.data_tmp = Some(swap.publish.clone());
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
        let swap = self.swap_at_root(from.0)?;
        // what was not seen being made is not published: a successor does not know where a link
        // that its predecessor accepted points to
        if from.1 != DATA_TMP || to != (ROOT, DATA) || self.data_tmp.as_ref() != Some(&swap.publish)
        {
            return Err(Refusal::ReadOnly);
        }
        self.data = swap.publish.clone();
        self.data_tmp = None;
        Ok(())
    }

    /// csi removes a link at the root.
    pub fn unlink(&mut self, parent: u64, name: &str) -> Result<(), Refusal> {
        self.swap_at_root(parent)?;
        if name == DATA_TMP {
            return self.data_tmp.take().map(|_dir| ()).ok_or(Refusal::Missing);
        }
        if name == DATA || self.will_show(name) || self.listed(name).is_some() {
            return Err(Refusal::ReadOnly);
        }
        if !self.links.by_name.contains_key(name) {
            return Err(Refusal::Missing);
        }
        Arc::make_mut(&mut self.links).remove(name);
        Ok(())
    }

    fn swap_at_root(&self, parent: u64) -> Result<&Swap, Refusal> {
        let swap = self.swap.as_ref().filter(|_swap| parent == ROOT);
        swap.ok_or(Refusal::ReadOnly)
    }

    /// Whether the version to be published has a file of that name.
    fn will_show(&self, name: &str) -> bool {
        let publish = self.swap.as_ref().map(|swap| swap.publish.as_str());
        let edition = publish.and_then(|dir| self.listed(dir));
        edition.is_some_and(|edition| edition.tree().file(name).is_some())
    }
}
