//! What the keeper holds. Pure: requests in, replies out.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
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
    fuse: Option<Arc<OwnedFd>>,
    mount: Option<Arc<OwnedFd>>,
}

/// Records and descriptors.
#[derive(Default)]
pub struct Shelf {
    volumes: BTreeMap<VolumeId, Volume>,
    contents: BTreeMap<ContentKey, Arc<OwnedFd>>,
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelf")
            .field("volumes", &self.volumes.len())
            .field("contents", &self.contents.len())
            .finish_non_exhaustive()
    }
}

/// A reply, with the descriptor that goes with it.
pub(super) type Answer = (KeeperReply, Option<Arc<OwnedFd>>);

fn refused(reason: &str) -> Answer {
    let reason = reason.to_owned();
    (KeeperReply::Refused { reason }, None)
}

fn found(descriptor: Option<&Arc<OwnedFd>>) -> Answer {
    descriptor.map_or((KeeperReply::Unknown, None), |fd| {
        (KeeperReply::Descriptor, Some(Arc::clone(fd)))
    })
}

impl Shelf {
    /// Does what a peer asks, if it may.
    pub fn answer(&mut self, role: Role, request: KeeperRequest, fds: Vec<OwnedFd>) -> Answer {
        if !role.may(&request) {
            return refused("this peer may not ask that");
        }
        let mut fds = fds.into_iter();
        let (fd, more) = (fds.next(), fds.next());
        match (request, fd, more) {
            (KeeperRequest::PutVolume { record, descriptor }, Some(fd), None) => {
                self.put_volume(record, descriptor, fd)
            }
            (KeeperRequest::PutContent { key }, Some(fd), None) => self.put_content(key, fd),
            (request, None, None) => self.answer_plain(request),
            _ => refused("a put takes one descriptor, every other request none"),
        }
    }

    fn answer_plain(&mut self, request: KeeperRequest) -> Answer {
        match request {
            KeeperRequest::PutVolume { .. } | KeeperRequest::PutContent { .. } => {
                refused("a put takes one descriptor")
            }
            KeeperRequest::ListVolumes { after } => {
                let page = self
                    .volumes
                    .range((after.map_or(Unbounded, Excluded), Unbounded));
                let records = page.take(PAGE).map(|(_, v)| v.record.clone()).collect();
                (KeeperReply::Volumes { records }, None)
            }
            KeeperRequest::GetVolume { volume, descriptor } => {
                found(self.volumes.get(&volume).and_then(|v| match descriptor {
                    Descriptor::Fuse => v.fuse.as_ref(),
                    Descriptor::Mount => v.mount.as_ref(),
                }))
            }
            KeeperRequest::RemoveVolume { volume } => {
                self.volumes.remove(&volume);
                (KeeperReply::Done, None)
            }
            KeeperRequest::ListContents { after } => {
                let page = self
                    .contents
                    .range((after.map_or(Unbounded, Excluded), Unbounded));
                let keys = page.take(PAGE).map(|(key, _)| key.clone()).collect();
                (KeeperReply::Contents { keys }, None)
            }
            KeeperRequest::GetContent { key } => found(self.contents.get(&key)),
            KeeperRequest::RemoveContent { key } => {
                self.contents.remove(&key);
                (KeeperReply::Done, None)
            }
        }
    }

    fn put_volume(&mut self, record: VolumeRecord, which: Descriptor, fd: OwnedFd) -> Answer {
        if self.volumes.len() >= VOLUME_LIMIT && !self.volumes.contains_key(&record.volume) {
            return refused("there are as many volumes as the keeper takes");
        }
        let volume = self
            .volumes
            .entry(record.volume.clone())
            .or_insert_with(|| Volume {
                record: record.clone(),
                fuse: None,
                mount: None,
            });
        volume.record = record;
        match which {
            Descriptor::Fuse => volume.fuse = Some(Arc::new(fd)),
            Descriptor::Mount => volume.mount = Some(Arc::new(fd)),
        }
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
        self.contents.insert(key, Arc::new(fd));
        (KeeperReply::Done, None)
    }
}
