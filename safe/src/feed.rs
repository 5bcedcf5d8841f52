//! What is published now, and who watches it.
//!
//! All readers are served from here, from memory. A state is encoded once, into one gRPC frame
//! that all its watchers share: tonic's own codec would keep a copy per watcher (1 MiB each).

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use prost::bytes::Bytes;
use time::OffsetDateTime;
use tokio::sync::watch;
use vsecm_safe_api::{
    name::SecretKey,
    position::{Digest, Lineage, Position, Revision, Shown},
    proto,
    state::{Absent, Reason},
    value::SecretValue,
    wire,
};
use zeroize::{Zeroize as _, Zeroizing};

use crate::entry::{Selected, Version};
use crate::vault::Slot;

/// Bytes before a gRPC message: one for compression, four for the length.
const PREFIX_BYTES: usize = 5;

/// The state of one secret, as everyone who may see it sees it.
pub struct Published {
    content: Content,
    frame: OnceLock<Bytes>,
}

enum Content {
    Present {
        position: Position,
        created: OffsetDateTime,
        version: Version,
        document: Arc<SecretValue>,
    },
    Absent(Absent),
}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Published")
            .field("revision", &self.revision())
            .field("outcome", &self.outcome())
            .finish_non_exhaustive()
    }
}

impl Published {
    fn new(content: Content) -> Self {
        Self { content, frame: OnceLock::new() }
    }

    /// Which content it is; `None` where there is none.
    pub fn position(&self) -> Option<&Position> {
        match &self.content {
            Content::Present { position, .. } => Some(position),
            Content::Absent(_) => None,
        }
    }

    /// What one shows who shows this.
    pub fn shown(&self) -> Shown {
        match &self.content {
            Content::Present { position, .. } => position.into(),
            Content::Absent(absent) => absent.into(),
        }
    }

    /// The write it stems from; for an absence, the store's last.
    pub fn revision(&self) -> Revision {
        match &self.content {
            Content::Present { position, .. } => position.revision,
            Content::Absent(absent) => absent.revision,
        }
    }

    /// The word for audit lines.
    pub fn outcome(&self) -> &'static str {
        match &self.content {
            Content::Present { .. } => "delivered",
            Content::Absent(absent) => match absent.reason {
                Reason::NotRegistered => "not registered",
                Reason::Deleted => "deleted",
                Reason::Expired => "expired",
                Reason::NotYetValid => "not yet valid",
                Reason::Unreadable => "unreadable",
            },
        }
    }

    /// When its time is over although nobody has published that yet.
    pub fn expired(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        match &self.content {
            Content::Present { version, .. } => version.expires.filter(|end| *end <= now),
            Content::Absent(_) => None,
        }
    }

    /// The gRPC frame of a `WatchResponse`, and of a `FetchResponse`, whose encoding is the same.
    pub fn frame(&self) -> Bytes {
        self.frame.get_or_init(|| self.encode()).clone()
    }

    fn encode(&self) -> Bytes {
        let state = match &self.content {
            Content::Present { position, created, version, document } => {
                proto::state::State::Snapshot(proto::Snapshot {
                    position: Some(position.into()),
                    document: document.expose().to_vec(),
                    format: proto::Format::from(version.format).into(),
                    created: Some(wire::timestamp(*created)),
                    updated: Some(wire::timestamp(version.updated)),
                    expires: version.expires.map(wire::timestamp),
                })
            }
            Content::Absent(absent) => proto::state::State::Absent(absent.into()),
        };
        let mut message = proto::WatchResponse { state: Some(proto::State { state: Some(state) }) };
        let frame = encode_frame(&message);
        if let Some(proto::State { state: Some(proto::state::State::Snapshot(snapshot)) }) =
            &mut message.state
        {
            snapshot.document.zeroize();
        }
        Bytes::from_owner(frame)
    }
}

/// One message with its gRPC prefix. It is wiped when its last reader drops it.
pub fn encode_frame(message: &impl prost::Message) -> Zeroizing<Vec<u8>> {
    let length = message.encoded_len();
    let mut frame = Zeroizing::new(Vec::with_capacity(PREFIX_BYTES + length));
    frame.push(0);
    // messages of Safe have little more than 1 MiB
    frame.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    message.encode_raw(&mut *frame);
    frame
}

type Channel = watch::Sender<Arc<Published>>;

/// How much is published, and to how many.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// Secrets with a value that is served.
    pub secrets: usize,
    /// Watches that are open.
    pub watchers: usize,
}

/// The published state of every key.
#[derive(Debug)]
pub struct Feed {
    lineage: Lineage,
    revision: AtomicU64,
    channels: RwLock<HashMap<SecretKey, Channel>>,
}

impl Feed {
    /// A feed of the store with this id, of which nothing is published yet.
    pub fn new(lineage: Lineage) -> Self {
        Self { lineage, revision: AtomicU64::new(0), channels: RwLock::default() }
    }

    /// The store's id.
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// Says how far the store is.
    pub fn advance(&self, revision: Revision) {
        self.revision.fetch_max(revision.0, Ordering::AcqRel);
    }

    /// Shows the slot's present state to all who watch it. Slow watchers see only the newest.
    pub fn publish(&self, key: &SecretKey, slot: &Slot, now: OffsetDateTime) {
        let state = Arc::new(Published::new(self.content(slot, now)));
        let mut channels = self.channels.write().unwrap_or_else(PoisonError::into_inner);
        match channels.get(key) {
            Some(channel) => {
                channel.send_replace(state);
            }
            None => {
                channels.insert(key.clone(), Channel::new(state));
            }
        }
    }

    /// What a workload gets now.
    pub fn current(&self, key: &SecretKey, now: OffsetDateTime) -> Arc<Published> {
        let channels = self.channels.read().unwrap_or_else(PoisonError::into_inner);
        let published = channels.get(key).map(|channel| channel.borrow().clone());
        drop(channels);
        match published {
            None => Arc::new(self.absent(Reason::NotRegistered, None)),
            Some(published) => match published.expired(now) {
                // at the second, also when the custodian's own waking is some milliseconds late
                Some(end) => Arc::new(self.absent(Reason::Expired, Some(end))),
                None => published,
            },
        }
    }

    /// What a workload gets now and later.
    pub fn watch(&self, key: &SecretKey) -> watch::Receiver<Arc<Published>> {
        let mut channels = self.channels.write().unwrap_or_else(PoisonError::into_inner);
        channels
            .entry(key.clone())
            .or_insert_with(|| Channel::new(Arc::new(self.absent(Reason::NotRegistered, None))))
            .subscribe()
    }

    /// How much there is.
    pub fn counts(&self) -> Counts {
        let channels = self.channels.read().unwrap_or_else(PoisonError::into_inner);
        let secrets = channels.values().filter(|c| c.borrow().position().is_some()).count();
        let watchers = channels.values().map(Channel::receiver_count).sum();
        drop(channels);
        Counts { secrets, watchers }
    }

    fn absent(&self, reason: Reason, at: Option<OffsetDateTime>) -> Published {
        Published::new(Content::Absent(self.absence(reason, at)))
    }

    fn absence(&self, reason: Reason, at: Option<OffsetDateTime>) -> Absent {
        Absent {
            reason,
            at,
            lineage: self.lineage.clone(),
            revision: Revision(self.revision.load(Ordering::Acquire)),
        }
    }

    fn content(&self, slot: &Slot, now: OffsetDateTime) -> Content {
        let entry = match slot {
            Slot::Stored(entry) => entry,
            Slot::Unreadable => {
                return Content::Absent(self.absence(Reason::Unreadable, None));
            }
        };
        match entry.select(now) {
            Selected::Absent { reason, at } => Content::Absent(self.absence(reason, at)),
            Selected::Current { created, version, document } => Content::Present {
                position: Position {
                    lineage: self.lineage.clone(),
                    revision: version.revision,
                    digest: Digest::of(version.format, document.expose()),
                },
                created,
                version: version.clone(),
                document: Arc::clone(document),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use vsecm_safe_api::state::{Format, State};

    use super::*;
    use crate::entry::{Draft, Entry};

    fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(second).unwrap()
    }

    fn slot(revision: u64, value: &[u8], end: Option<i64>) -> Slot {
        let draft = Draft {
            document: SecretValue::new(value.to_vec()).unwrap(),
            format: Format::Json,
            not_before: None,
            expires: end.map(at),
        };
        Slot::Stored(Entry::put(None, draft, Revision(revision), at(0)).unwrap())
    }

    fn feed() -> (Feed, SecretKey) {
        let feed = Feed::new(Lineage::from_random([1; 16]));
        (feed, SecretKey::parse("default", "db").unwrap())
    }

    fn decoded(published: &Published) -> State {
        let frame = published.frame();
        assert_eq!(frame[0], 0);
        let length = u32::from_be_bytes(frame[1..5].try_into().unwrap());
        assert_eq!(frame.len(), 5 + usize::try_from(length).unwrap());
        let fetched = proto::FetchResponse::decode(&frame[5..]).unwrap();
        let watched = proto::WatchResponse::decode(&frame[5..]).unwrap();
        assert!(fetched.state == watched.state, "one encoding for both");
        State::try_from(watched.state).unwrap()
    }

    #[test]
    fn all_watchers_share_one_frame() {
        let (feed, key) = feed();
        let (one, two) = (feed.watch(&key), feed.watch(&key));
        feed.publish(&key, &slot(3, b"{}", None), at(0));
        let frames = [one, two].map(|watcher| watcher.borrow().frame());
        assert_eq!(frames[0].as_ptr(), frames[1].as_ptr());
    }

    #[test]
    fn a_frame_holds_the_state_that_the_client_understands() {
        let (feed, key) = feed();
        feed.advance(Revision(9));
        let State::Absent(absent) = decoded(&feed.current(&key, at(0))) else {
            panic!("nothing is registered")
        };
        assert_eq!((absent.reason, absent.revision), (Reason::NotRegistered, Revision(9)));
        feed.publish(&key, &slot(3, b"{\"a\":1}", Some(50)), at(0));
        let State::Present(snapshot) = decoded(&feed.current(&key, at(0))) else {
            panic!("it is registered")
        };
        assert_eq!(snapshot.document.expose(), b"{\"a\":1}");
        assert_eq!(snapshot.position.revision, Revision(3));
        assert_eq!(Some(&snapshot.position), feed.current(&key, at(0)).position());
    }

    #[test]
    fn an_expiry_is_enforced_at_the_second_even_if_nobody_woke() {
        let (feed, key) = feed();
        feed.publish(&key, &slot(3, b"x", Some(50)), at(0));
        assert_eq!(feed.current(&key, at(49)).outcome(), "delivered");
        assert_eq!(feed.current(&key, at(50)).outcome(), "expired");
    }

    #[test]
    fn unreadable_is_not_absent() {
        let (feed, key) = feed();
        feed.publish(&key, &Slot::Unreadable, at(0));
        assert_eq!(feed.current(&key, at(0)).outcome(), "unreadable");
    }
}
