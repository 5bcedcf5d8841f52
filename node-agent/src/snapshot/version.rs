//! Names for versions: one that tells all of them apart, and one for people.

use sha2::{Digest as _, Sha256};
use vsecm_node_agent_api::volume::VersionDir;

use crate::inode::leading;

/// Tells versions apart, also those of different stores.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct VersionId([u8; 16]);

impl VersionId {
    /// The id of what is described by `parts`.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut id = [0; 16];
        id.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
        Self(id)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// As an inode generation.
    pub fn generation(&self) -> u64 {
        leading(&self.0)
    }
}

impl std::fmt::Debug for VersionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.generation())
    }
}

/// Folder names with a suffix that no other version has, for the rare case that two versions with
/// the same revision are there at once (a store of another lineage, an expiry), or one is there
/// again.
pub fn distinct_folders(folder: &str, id: VersionId) -> impl Iterator<Item = VersionDir> {
    let folder = format!("{folder}-{:08x}", id.generation() >> 32);
    let more = (2..100).map({
        let folder = folder.clone();
        move |number| format!("{folder}-{number}")
    });
    std::iter::once(folder).chain(more).filter_map(|name| name.parse().ok())
}
