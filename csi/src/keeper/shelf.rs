//! What the keeper holds: requests in, replies out.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    ops::Bound,
    os::fd::OwnedFd,
    sync::Arc,
};

use rustix::fs::{SealFlags, fcntl_get_seals, fstat};
use vsecm_node_agent_api::{
    frame::{ContentKey, Descriptor, KeeperReply, KeeperRequest, PAGE},
    volume::{VolumeId, VolumeRecord},
};

use super::Role;

/// Volumes at most. The kubelet's default is 110 pods on a node.
pub const VOLUME_LIMIT: usize = 4096;

/// Contents at most: two for each volume, as one is put before the last is removed.
pub const CONTENT_LIMIT: usize = 8192;

/// Bytes in a content at most: a value of 1 MiB, as document and as keys, with room.
const CONTENT_SIZE_LIMIT: i64 = 8 * 1024 * 1024;

struct Volume {
    record: VolumeRecord,
    fds: HashMap<Descriptor, Arc<OwnedFd>>,
}

/// Records and descriptors.
#[derive(Default)]
pub struct Shelf {
    volumes: BTreeMap<VolumeId, Volume>,
    contents: BTreeMap<ContentKey, Arc<OwnedFd>>,
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf").finish_non_exhaustive()
    }
}

/// A reply, with the descriptor that goes with it.
pub(super) type Answer = (KeeperReply, Option<Arc<OwnedFd>>);

fn refused(reason: &str) -> Answer {
    (
        KeeperReply::Refused {
            reason: reason.to_owned(),
        },
        None,
    )
}

fn found(fd: Option<&Arc<OwnedFd>>) -> Answer {
    fd.map_or((KeeperReply::Unknown, None), |fd| {
        (KeeperReply::Descriptor, Some(Arc::clone(fd)))
    })
}

fn page<K: Ord, V>(map: &BTreeMap<K, V>, after: Option<K>) -> impl Iterator<Item = (&K, &V)> {
    map.range((
        after.map_or(Bound::Unbounded, Bound::Excluded),
        Bound::Unbounded,
    ))
    .take(PAGE)
}

impl Shelf {
    /// Does what a peer asks, if it may.
    pub fn answer(&mut self, role: Role, request: KeeperRequest, mut fds: Vec<OwnedFd>) -> Answer {
        if !role.may(&request) {
            return refused("this peer may not ask that");
        }
        match (request, fds.pop()) {
            (KeeperRequest::PutVolume { record, descriptor }, Some(fd)) if fds.is_empty() => {
                return self.put_volume(record, descriptor, fd.into());
            }
            (KeeperRequest::PutContent { key }, Some(fd)) if fds.is_empty() => {
                return self.put_content(key, fd);
            }
            (KeeperRequest::PutVolume { .. } | KeeperRequest::PutContent { .. }, _)
            | (_, Some(_)) => return refused("a put takes one descriptor, all else none"),
            (KeeperRequest::ListVolumes { after }, None) => {
                let records = page(&self.volumes, after)
                    .map(|(_, v)| v.record.clone())
                    .collect();
                return (KeeperReply::Volumes { records }, None);
            }
            (KeeperRequest::ListContents { after }, None) => {
                let keys = page(&self.contents, after)
                    .map(|(key, _)| key.clone())
                    .collect();
                return (KeeperReply::Contents { keys }, None);
            }
            (KeeperRequest::GetVolume { volume, descriptor }, None) => {
                return found(
                    self.volumes
                        .get(&volume)
                        .and_then(|v| v.fds.get(&descriptor)),
                );
            }
            (KeeperRequest::GetContent { key }, None) => return found(self.contents.get(&key)),
            (KeeperRequest::RemoveVolume { volume }, None) => drop(self.volumes.remove(&volume)),
            (KeeperRequest::RemoveContent { key }, None) => drop(self.contents.remove(&key)),
        }
        (KeeperReply::Done, None)
    }

    fn put_volume(&mut self, record: VolumeRecord, which: Descriptor, fd: Arc<OwnedFd>) -> Answer {
        if self.volumes.len() >= VOLUME_LIMIT && !self.volumes.contains_key(&record.volume) {
            return refused("there are as many volumes as the keeper takes");
        }
        let fresh = || Volume {
            record: record.clone(),
            fds: HashMap::new(),
        };
        let volume = self
            .volumes
            .entry(record.volume.clone())
            .or_insert_with(fresh);
        volume.fds.insert(which, fd);
        volume.record = record;
        (KeeperReply::Done, None)
    }

    fn put_content(&mut self, key: ContentKey, fd: OwnedFd) -> Answer {
        if self.contents.len() >= CONTENT_LIMIT && !self.contents.contains_key(&key) {
            return refused("there are as many contents as the keeper takes");
        }
        let sealed = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK;
        // the seals first: only a memfd has them, and its fstat asks nobody else
        if !fcntl_get_seals(&fd).is_ok_and(|seals| seals.contains(sealed)) {
            return refused("a content is a memfd, sealed against writing, growing and shrinking");
        }
        if !fstat(&fd).is_ok_and(|stat| stat.st_size <= CONTENT_SIZE_LIMIT) {
            return refused("the content is larger than 8 MiB");
        }
        self.contents.insert(key, fd.into());
        (KeeperReply::Done, None)
    }
}
