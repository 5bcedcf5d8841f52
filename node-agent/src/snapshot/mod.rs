//! What Safe said about one secret, immutable, and where its bytes are kept.
//!
//! Each snapshot is also a sealed memfd that is deposited with the keeper *before* anyone sees it:
//! a successor of this process serves the same content at once, also when Safe is away ([I6]), and
//! a deletion is deposited the same way, so that nothing deleted comes back.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use vsecm_safe_api::{
    name::SecretKey,
    position::{Lineage, Position, Revision, Shown},
    state::Format,
    value::SecretValue,
};

pub use self::version::{VersionId, distinct_folders};
pub(crate) use self::wire::{nanoseconds, time};
use crate::{json, mapping::Mapping, member::Member, memfd::MemfdError, yaml};

mod version;
mod wire;

/// What Safe decides on: never the pod part of a SPIFFE ID, so that pods of a node with an equal
/// key share one watch and one copy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotKey {
    /// Trust domain.
    pub trust_domain: String,
    /// Namespace and name.
    pub secret: SecretKey,
}

impl SnapshotKey {
    /// Stands for the key where its parts would be too long.
    pub fn id(&self) -> VersionId {
        let Self { trust_domain, secret } = self;
        let parts = [trust_domain.as_str(), secret.namespace.as_str(), secret.name.as_str()];
        VersionId::of(&parts.map(str::as_bytes))
    }
}

/// Why there are no files any more. Only Safe says so ([I2]): a deletion when it happens, an expiry
/// beforehand, with the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Removal {
    /// An operator deleted the secret.
    Deleted,
    /// Its time is over.
    Expired,
}

/// What Safe said.
pub enum Content {
    /// There is a document.
    Document {
        /// Where in the store's history.
        position: Position,
        /// How it is to be shown.
        format: Format,
        /// The bytes.
        document: Document,
        /// When it must no longer be shown, whatever becomes of Safe; `None` is never.
        expires: Option<SystemTime>,
    },
    /// There was one, and it is gone.
    Removed {
        /// Why.
        removal: Removal,
        /// The store that says so.
        lineage: Lineage,
        /// The store's revision then.
        revision: Revision,
    },
}

/// The bytes of a document.
#[expect(missing_debug_implementations, reason = "a value has no exits")]
pub enum Document {
    /// As they came from Safe.
    Received(SecretValue),
    /// As they lie in the memfd, behind its header.
    Kept {
        /// The whole memfd.
        mapping: Mapping,
        /// Bytes of the header.
        header: usize,
    },
}

impl From<SecretValue> for Document {
    fn from(value: SecretValue) -> Self {
        Self::Received(value)
    }
}

impl Document {
    /// The bytes, for the one who must have them.
    pub fn expose(&self) -> &[u8] {
        match self {
            Self::Received(value) => value.expose(),
            Self::Kept { mapping, header } => mapping.bytes().get(*header..).unwrap_or_default(),
        }
    }
}

/// One version of one secret.
pub struct Snapshot {
    key: SnapshotKey,
    content: Content,
    time: SystemTime,
    sequence: u64,
    id: VersionId,
    members: OnceLock<Vec<Member>>,
    memfd: Arc<OwnedFd>,
}

/// Why a snapshot could not be kept or read back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The memfd could not be made, or is not one of ours.
    #[error("a snapshot could not be kept or read back")]
    Memory(#[from] MemfdError),
    /// The memfd is not what this program writes.
    #[error("a snapshot's memory file is not understood: {0}")]
    Malformed(&'static str),
}

impl Snapshot {
    /// Keeps `content`, said at `time`. `sequence` orders the snapshots of a key: the highest is
    /// the newest, also across stores.
    ///
    /// # Errors
    /// [`SnapshotError::Memory`].
    pub fn new(
        key: SnapshotKey,
        content: Content,
        time: SystemTime,
        sequence: u64,
    ) -> Result<Self, SnapshotError> {
        let (memfd, header) = wire::write(&key, &content, time, sequence)?;
        Ok(Self {
            id: content.id(),
            key,
            content: content.kept_in(&memfd, header),
            time,
            sequence,
            members: OnceLock::new(),
            memfd: Arc::new(memfd),
        })
    }

    /// Reads a snapshot back from the memfd that the keeper held.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn load(memfd: Arc<OwnedFd>) -> Result<Self, SnapshotError> {
        let wire::Read { key, content, time, sequence } = wire::read(&memfd)?;
        Ok(Self { id: content.id(), key, content, time, sequence, members: OnceLock::new(), memfd })
    }

    /// Whose version this is.
    pub fn key(&self) -> &SnapshotKey {
        &self.key
    }

    /// What Safe said.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The document's bytes; none after a removal.
    pub fn document(&self) -> &[u8] {
        self.content.document()
    }

    /// When it was said.
    pub fn time(&self) -> SystemTime {
        self.time
    }

    /// Orders the snapshots of a key.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Tells it from all others.
    pub fn id(&self) -> VersionId {
        self.id
    }

    /// The name of its folder, for people: the revision.
    pub fn folder(&self) -> String {
        format!("..{}", self.content.revision())
    }

    /// The position to resume a watch from; none after a removal.
    pub fn position(&self) -> Option<&Position> {
        match &self.content {
            Content::Document { position, .. } => Some(position),
            Content::Removed { .. } => None,
        }
    }

    /// What a pod shows that shows this.
    pub fn shown(&self) -> Shown {
        match &self.content {
            Content::Document { position, .. } => position.into(),
            Content::Removed { lineage, revision, .. } => {
                Shown { lineage: lineage.clone(), revision: *revision, digest: None }
            }
        }
    }

    /// When it must no longer be shown; nothing ends what is gone.
    pub fn expires(&self) -> Option<SystemTime> {
        match &self.content {
            Content::Document { expires, .. } => *expires,
            Content::Removed { .. } => None,
        }
    }

    /// When its time was over, if it is at `now`.
    pub fn ended(&self, now: SystemTime) -> Option<SystemTime> {
        self.expires().filter(|end| *end <= now)
    }

    /// The same document with another end.
    pub fn until(&self, expires: Option<SystemTime>) -> Option<Result<Self, SnapshotError>> {
        let Content::Document { position, format, document, .. } = &self.content else {
            return None;
        };
        let content = Content::Document {
            position: position.clone(),
            format: *format,
            document: SecretValue::new(document.expose().to_vec()).ok()?.into(),
            expires,
        };
        Some(Self::new(self.key.clone(), content, self.time, self.sequence))
    }

    /// What takes the place of a document whose time is over, in one step with its position.
    pub fn expired(&self, end: SystemTime) -> Option<Content> {
        let position = self.position()?;
        self.ended(end).map(|_end| Content::Removed {
            removal: Removal::Expired,
            lineage: position.lineage.clone(),
            revision: position.revision,
        })
    }

    /// The sealed memfd.
    pub fn memfd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.memfd)
    }

    /// The document's members, parsed once for all volumes that show them; none if it is no JSON
    /// object or YAML mapping, or was registered as one document whatever is in it.
    pub fn members(&self) -> &[Member] {
        let members = || match self.content {
            Content::Document { format: Format::Json, .. } => json::members(self.document()),
            Content::Document { format: Format::Yaml, .. } => yaml::members(self.document()),
            Content::Document { format: Format::Raw, .. } | Content::Removed { .. } => None,
        };
        self.members.get_or_init(|| members().unwrap_or_default())
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("key", &self.key)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self {
            Self::Document { .. } => "Document(redacted)",
            Self::Removed { .. } => "Removed",
        };
        write!(f, "{kind} at {}", self.revision())
    }
}

impl Content {
    /// The same, with the memfd for its only copy.
    fn kept_in(self, memfd: &OwnedFd, header: usize) -> Self {
        match self {
            Self::Document { position, format, document, expires } => {
                let mapping = Mapping::of(memfd, wire::LIMIT);
                // where it cannot be mapped, what was received is as good
                let document =
                    mapping.map_or(document, |mapping| Document::Kept { mapping, header });
                Self::Document { position, format, document, expires }
            }
            removed @ Self::Removed { .. } => removed,
        }
    }

    fn document(&self) -> &[u8] {
        match self {
            Self::Document { document, .. } => document.expose(),
            Self::Removed { .. } => &[],
        }
    }

    fn revision(&self) -> Revision {
        match self {
            Self::Document { position, .. } => position.revision,
            Self::Removed { revision, .. } => *revision,
        }
    }

    fn lineage(&self) -> &Lineage {
        match self {
            Self::Document { position, .. } => &position.lineage,
            Self::Removed { lineage, .. } => lineage,
        }
    }

    fn id(&self) -> VersionId {
        let lineage = self.lineage().as_str().as_bytes();
        let revision = self.revision().0.to_be_bytes();
        match self {
            Self::Document { position, .. } => {
                VersionId::of(&[lineage, &revision, position.digest.as_bytes()])
            }
            Self::Removed { removal, .. } => {
                VersionId::of(&[lineage, &revision, format!("{removal:?}").as_bytes()])
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use vsecm_safe_api::position::Digest;

    use super::*;

    pub(crate) fn key() -> SnapshotKey {
        SnapshotKey {
            trust_domain: "vsecm.com".into(),
            secret: SecretKey::parse("default", "billing").unwrap(),
        }
    }

    pub(crate) fn document(revision: u64, text: &str) -> Snapshot {
        document_of("default", revision, text)
    }

    pub(crate) fn document_of(namespace: &str, revision: u64, text: &str) -> Snapshot {
        document_named(namespace, "billing", revision, text)
    }

    pub(crate) fn document_named(
        namespace: &str,
        name: &str,
        revision: u64,
        text: &str,
    ) -> Snapshot {
        document_until(SecretKey::parse(namespace, name).unwrap(), revision, text, None)
    }

    pub(crate) fn document_until(
        secret: SecretKey,
        revision: u64,
        text: &str,
        expires: Option<SystemTime>,
    ) -> Snapshot {
        let format = Format::Json;
        let content = Content::Document {
            position: Position {
                lineage: Lineage::from_random([7; 16]),
                revision: Revision(revision),
                digest: Digest::of(format, text.as_bytes()),
            },
            format,
            document: SecretValue::new(text.as_bytes().to_vec()).unwrap().into(),
            expires,
        };
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + revision);
        let key = SnapshotKey { secret, ..key() };
        Snapshot::new(key, content, time, revision).unwrap()
    }

    #[test]
    fn a_snapshot_survives_its_process_in_a_sealed_memfd() {
        let before = document(7, "{\"a\":\"b\\nc\"}");
        let after = Snapshot::load(before.memfd()).unwrap();
        assert_eq!(after.key(), before.key());
        assert_eq!(after.id(), before.id());
        assert_eq!(after.document(), before.document());
        assert_eq!(after.time(), before.time());
        assert_eq!(after.position(), before.position());
        assert_eq!(after.folder(), "..7");
    }

    #[test]
    fn an_end_survives_too_and_is_over_at_its_second() {
        let end = SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_500);
        let before = document_until(key().secret, 7, "{}", Some(end));
        let after = Snapshot::load(before.memfd()).unwrap();
        assert_eq!(after.expires(), Some(end));
        assert_eq!(after.ended(end - Duration::from_millis(1)), None);
        assert_eq!(after.ended(end), Some(end));
        let Some(Content::Removed { removal, revision, .. }) = after.expired(end) else {
            panic!("a removal must take its place");
        };
        assert_eq!((removal, revision), (Removal::Expired, Revision(7)));
        assert!(document(7, "{}").expired(end).is_none(), "it has no end");
    }

    #[test]
    fn a_removal_survives_too_so_that_nothing_deleted_comes_back() {
        let content = Content::Removed {
            removal: Removal::Deleted,
            lineage: Lineage::from_random([7; 16]),
            revision: Revision(8),
        };
        let before = Snapshot::new(key(), content, SystemTime::UNIX_EPOCH, 9).unwrap();
        let after = Snapshot::load(before.memfd()).unwrap();
        assert_eq!(after.id(), before.id());
        assert!(matches!(after.content(), Content::Removed { removal: Removal::Deleted, .. }));
        assert!(after.position().is_none());
    }

    #[test]
    fn debug_shows_no_content() {
        assert!(!format!("{:?}", document(1, "{\"a\":\"canary\"}")).contains("canary"));
    }
}
