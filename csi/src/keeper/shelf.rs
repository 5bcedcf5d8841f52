//! What the keeper holds: requests in, replies out.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    os::fd::OwnedFd,
    sync::Arc,
};

use rustix::fs::{SealFlags, fcntl_get_seals, fstat};
use vsecm_node_agent_api::{
    frame::{
        ContentKey, Descriptor, FRAME_LIMIT, KeeperReply, KeeperRequest, PAGE, RawRecord as Record,
        Role,
    },
    volume::VolumeId,
};

/// Volumes at most. The kubelet's default is 110 pods on a node.
pub const VOLUME_LIMIT: usize = 4096;

/// Contents at most: two for each volume, as one is put before the last is removed.
pub const CONTENT_LIMIT: usize = 8192;

/// Bytes in a content at most: a value of 1 MiB, as document and as keys, with room.
const CONTENT_SIZE_LIMIT: i64 = 8 * 1024 * 1024;

/// Bytes of a record at most: a page of them is one frame.
const RECORD_LIMIT: usize = (FRAME_LIMIT - 1024) / PAGE;

#[derive(Debug)]
struct Volume {
    /// As csi wrote it: one of a newer version has what this keeper does not know.
    record: Record,
    fds: HashMap<Descriptor, Arc<OwnedFd>>,
}

/// Records and descriptors.
#[derive(Debug, Default)]
pub struct Shelf {
    volumes: BTreeMap<VolumeId, Volume>,
    contents: BTreeMap<ContentKey, Arc<OwnedFd>>,
}

/// A reply, with the descriptor that goes with it.
pub(super) type Answer = (KeeperReply<Record>, Option<Arc<OwnedFd>>);

fn refused(reason: &str) -> Answer {
    (KeeperReply::Refused { reason: reason.to_owned() }, None)
}

fn found(fd: Option<&Arc<OwnedFd>>) -> Answer {
    fd.map_or((KeeperReply::Unknown, None), |fd| (KeeperReply::Descriptor, Some(Arc::clone(fd))))
}

fn page<K: Ord, V>(map: &BTreeMap<K, V>, after: Option<K>) -> impl Iterator<Item = (&K, &V)> {
    map.range((after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)).take(PAGE)
}

impl Shelf {
    /// Does what a peer asks, if it may.
    pub fn answer(
        &mut self,
        role: Role,
        request: KeeperRequest<Record>,
        mut fds: Vec<OwnedFd>,
    ) -> Answer {
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
                let records = page(&self.volumes, after).map(|(_, v)| v.record.clone()).collect();
                return (KeeperReply::Volumes { records }, None);
            }
            (KeeperRequest::ListContents { after }, None) => {
                let keys = page(&self.contents, after).map(|(key, _)| key.clone()).collect();
                return (KeeperReply::Contents { keys }, None);
            }
            (KeeperRequest::GetVolume { volume, descriptor }, None) => {
                return found(self.volumes.get(&volume).and_then(|v| v.fds.get(&descriptor)));
            }
            (KeeperRequest::GetContent { key }, None) => return found(self.contents.get(&key)),
            (KeeperRequest::RemoveVolume { volume }, None) => drop(self.volumes.remove(&volume)),
            (KeeperRequest::RemoveContent { key }, None) => drop(self.contents.remove(&key)),
        }
        (KeeperReply::Done, None)
    }

    fn put_volume(&mut self, record: Record, which: Descriptor, fd: Arc<OwnedFd>) -> Answer {
        let id = record.get("volume").and_then(|id| id.as_str()?.parse::<VolumeId>().ok());
        let Some(id) = id else { return refused("the record names no volume") };
        if self.volumes.len() >= VOLUME_LIMIT && !self.volumes.contains_key(&id) {
            return refused("there are as many volumes as the keeper takes");
        }
        if record.to_string().len() > RECORD_LIMIT {
            return refused("the record is larger than the keeper takes");
        }
        let fresh = || Volume { record: Record::Null, fds: HashMap::new() };
        let volume = self.volumes.entry(id).or_insert_with(fresh);
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

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};

    use super::*;

    const SEALED: SealFlags = SealFlags::WRITE.union(SealFlags::GROW).union(SealFlags::SHRINK);

    fn memfd(size: u64, seals: SealFlags) -> OwnedFd {
        let fd = memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&fd, size).unwrap();
        fcntl_add_seals(&fd, seals).unwrap();
        fd
    }

    fn any_fd() -> OwnedFd {
        memfd(0, SealFlags::empty())
    }

    fn id(number: usize) -> VolumeId {
        format!("csi-{number:05}").parse().unwrap()
    }

    fn key(number: usize) -> ContentKey {
        ContentKey::try_from(format!("c-{number:05}")).unwrap()
    }

    fn record(volume: VolumeId) -> Record {
        let pairs = [("volume".to_owned(), String::from(volume).into())];
        Record::Object(pairs.into_iter().collect())
    }

    fn put(number: usize, descriptor: Descriptor) -> KeeperRequest<Record> {
        KeeperRequest::PutVolume { record: record(id(number)), descriptor }
    }

    fn get(number: usize, descriptor: Descriptor) -> KeeperRequest<Record> {
        KeeperRequest::GetVolume { volume: id(number), descriptor }
    }

    fn is_refused(answer: &Answer) -> bool {
        matches!(answer, (KeeperReply::Refused { .. }, None))
    }

    #[test]
    fn each_role_may_do_what_is_its_own_and_nothing_else() {
        let all = [
            (put(1, Descriptor::Fuse), true, false),
            (put(1, Descriptor::Mount), true, false),
            (KeeperRequest::ListVolumes { after: None }, true, true),
            (get(1, Descriptor::Fuse), true, true),
            (get(1, Descriptor::Mount), true, false),
            (KeeperRequest::RemoveVolume { volume: id(1) }, true, false),
            (KeeperRequest::PutContent { key: key(1) }, false, true),
            (KeeperRequest::ListContents { after: None }, false, true),
            (KeeperRequest::GetContent { key: key(1) }, false, true),
            (KeeperRequest::RemoveContent { key: key(1) }, false, true),
        ];
        for (request, csi, node_agent) in all {
            for (role, may) in [(Role::Csi, csi), (Role::NodeAgent, node_agent)] {
                assert_eq!(role.may(&request), may, "{role:?} {request:?}");
                if !may {
                    let fds = vec![memfd(1, SEALED)];
                    assert!(is_refused(&Shelf::default().answer(role, request.clone(), fds)));
                }
            }
        }
    }

    #[test]
    fn a_volume_comes_back_with_both_descriptors_until_it_is_removed() {
        let mut shelf = Shelf::default();
        for descriptor in [Descriptor::Fuse, Descriptor::Mount] {
            let reply = shelf.answer(Role::Csi, put(1, descriptor), vec![any_fd()]).0;
            assert_eq!(reply, KeeperReply::Done);
            let (reply, fd) = shelf.answer(Role::Csi, get(1, descriptor), vec![]);
            assert!(reply == KeeperReply::Descriptor && fd.is_some());
        }
        let remove = KeeperRequest::RemoveVolume { volume: id(1) };
        for _twice in 0..2 {
            assert_eq!(shelf.answer(Role::Csi, remove.clone(), vec![]).0, KeeperReply::Done);
        }
        let (reply, fd) = shelf.answer(Role::Csi, get(1, Descriptor::Fuse), vec![]);
        assert!(reply == KeeperReply::Unknown && fd.is_none());
    }

    #[test]
    fn a_record_of_a_newer_csi_comes_back_as_it_was() {
        let mut shelf = Shelf::default();
        let newer: Record = r#"{"volume":"csi-00007","shape":{"sides":7}}"#.parse().unwrap();
        let put = KeeperRequest::PutVolume { record: newer.clone(), descriptor: Descriptor::Fuse };
        assert_eq!(shelf.answer(Role::Csi, put, vec![any_fd()]).0, KeeperReply::Done);
        let list = KeeperRequest::ListVolumes { after: None };
        let records = vec![newer];
        assert_eq!(shelf.answer(Role::Csi, list, vec![]).0, KeeperReply::Volumes { records });
        let long = format!(r#"{{"volume":"v","x":"{}"}}"#, "x".repeat(RECORD_LIMIT));
        for bad in ["{}", r#"{"volume":"a/b"}"#, &long] {
            let bad = bad.parse().unwrap();
            let put = KeeperRequest::PutVolume { record: bad, descriptor: Descriptor::Fuse };
            assert!(is_refused(&shelf.answer(Role::Csi, put, vec![any_fd()])));
        }
    }

    #[test]
    fn a_list_comes_in_pages_and_ends_with_an_empty_one() {
        let mut shelf = Shelf::default();
        for number in 0..PAGE + 3 {
            shelf.answer(Role::Csi, put(number, Descriptor::Fuse), vec![any_fd()]);
        }
        let (mut after, mut sizes) = (None, Vec::new());
        loop {
            let request = KeeperRequest::ListVolumes { after };
            let (KeeperReply::Volumes { records }, None) =
                shelf.answer(Role::NodeAgent, request, vec![])
            else {
                panic!("no list")
            };
            sizes.push(records.len());
            match records.last() {
                Some(last) => after = last["volume"].as_str().map(|id| id.parse().unwrap()),
                None => break,
            }
        }
        assert_eq!(sizes, [PAGE, 3, 0]);
    }

    #[test]
    fn a_put_takes_exactly_one_descriptor_and_other_requests_none() {
        let mut shelf = Shelf::default();
        for fds in [vec![], vec![any_fd(), any_fd()]] {
            assert!(is_refused(&shelf.answer(Role::Csi, put(1, Descriptor::Fuse), fds)));
        }
        let list = KeeperRequest::ListVolumes { after: None };
        assert!(is_refused(&shelf.answer(Role::Csi, list, vec![any_fd()])));
        assert!(shelf.volumes.is_empty());
    }

    #[test]
    fn a_content_is_a_sealed_memfd_of_bounded_size() {
        let mut shelf = Shelf::default();
        let limit = u64::try_from(CONTENT_SIZE_LIMIT).unwrap();
        let bad = [
            any_fd(),
            memfd(1, SealFlags::WRITE.union(SealFlags::GROW)),
            memfd(limit + 1, SEALED),
            std::fs::File::open("/proc/self/exe").unwrap().into(),
        ];
        let put = KeeperRequest::PutContent { key: key(1) };
        for fd in bad {
            assert!(is_refused(&shelf.answer(Role::NodeAgent, put.clone(), vec![fd])));
        }
        let good = vec![memfd(limit, SEALED)];
        assert_eq!(shelf.answer(Role::NodeAgent, put, good).0, KeeperReply::Done);
        let (reply, fd) =
            shelf.answer(Role::NodeAgent, KeeperRequest::GetContent { key: key(1) }, vec![]);
        assert!(reply == KeeperReply::Descriptor && fd.is_some());
    }

    #[test]
    fn the_shelf_is_bounded_and_what_is_on_it_can_still_be_replaced() {
        let mut shelf = Shelf::default();
        let fd = Arc::new(any_fd());
        for number in 0..VOLUME_LIMIT {
            shelf.put_volume(record(id(number)), Descriptor::Fuse, Arc::clone(&fd));
        }
        let one_more =
            |s: &mut Shelf, n| s.put_volume(record(id(n)), Descriptor::Mount, Arc::clone(&fd));
        assert!(is_refused(&one_more(&mut shelf, VOLUME_LIMIT)));
        assert_eq!(one_more(&mut shelf, 0).0, KeeperReply::Done);
        for number in 0..CONTENT_LIMIT {
            shelf.contents.insert(key(number), Arc::clone(&fd));
        }
        assert!(is_refused(&shelf.put_content(key(CONTENT_LIMIT), memfd(1, SEALED))));
        assert_eq!(shelf.put_content(key(0), memfd(1, SEALED)).0, KeeperReply::Done);
    }
}
