//! When Safe confirmed content last, left to a successor.
//!
//! A watch that is open confirms all the time. So one sign of life a minute speaks for all of
//! them, and a note of its own is left only of what Safe cannot be asked about.

use std::{collections::BTreeMap, os::fd::OwnedFd, sync::Arc, time::SystemTime};

use serde::{Deserialize, Serialize};
use vsecm_node_agent_api::frame::ContentKey;
use vsecm_safe_api::name::SecretKey;

use crate::{
    memfd,
    snapshot::{Snapshot, SnapshotKey, nanoseconds, time},
};

/// How the names of notes at the keeper start.
const PREFIX: &str = "confirmed-";

/// The name of the sign of life.
const ALIVE: &str = "confirmed-all";

/// Bytes of a note at most.
const LIMIT: usize = 8 * 1024;

#[derive(Serialize, Deserialize)]
struct Wire {
    /// Of the sign of life there is none.
    #[serde(default)]
    secret: Option<Secret>,
    nanoseconds: u64,
}

#[derive(Serialize, Deserialize)]
struct Secret {
    trust_domain: String,
    namespace: String,
    name: String,
}

/// Whether the keeper's entry of this name is a note.
pub fn is_note(key: &ContentKey) -> bool {
    String::from(key.clone()).starts_with(PREFIX)
}

/// The name of the note about a secret.
pub(super) fn note_key(key: &SnapshotKey) -> Option<ContentKey> {
    ContentKey::try_from(format!("{PREFIX}{:?}", key.id())).ok()
}

/// The name of the sign of life.
pub(super) fn alive_key() -> Option<ContentKey> {
    ContentKey::try_from(ALIVE.to_owned()).ok()
}

/// A note about a secret, or the sign of life.
pub(super) fn note(key: Option<&SnapshotKey>, confirmed: SystemTime) -> Option<Arc<OwnedFd>> {
    let secret = key.map(|key| Secret {
        trust_domain: key.trust_domain.clone(),
        namespace: key.secret.namespace.to_string(),
        name: key.secret.name.to_string(),
    });
    let wire = Wire { secret, nanoseconds: nanoseconds(confirmed) };
    let json = serde_json::to_vec(&wire).ok()?;
    memfd::sealed(&[&json]).ok().map(Arc::new)
}

/// What a predecessor left.
#[derive(Debug, Default)]
pub struct Notes {
    alive: Option<SystemTime>,
    of: BTreeMap<SnapshotKey, SystemTime>,
}

impl Notes {
    /// Reads one; whether it is understood.
    pub fn read(&mut self, memfd: &OwnedFd) -> bool {
        self.try_read(memfd).is_some()
    }

    fn try_read(&mut self, memfd: &OwnedFd) -> Option<()> {
        let json = memfd::contents(memfd, LIMIT).ok()?;
        let Wire { secret, nanoseconds } = serde_json::from_slice(&json).ok()?;
        let at = time(nanoseconds);
        match secret {
            None => self.alive = Some(at),
            Some(Secret { trust_domain, namespace, name }) => {
                let secret = SecretKey::parse(&namespace, &name).ok()?;
                self.of.insert(SnapshotKey { trust_domain, secret }, at);
            }
        }
        Some(())
    }

    /// When Safe confirmed it last. A predecessor that knew no notes leaves the time when Safe said it.
    pub fn confirmed(&self, snapshot: &Snapshot) -> SystemTime {
        self.of.get(snapshot.key()).copied().or(self.alive).unwrap_or(snapshot.time())
    }

    /// Whether there is one about this secret.
    pub fn has(&self, key: &SnapshotKey) -> bool {
        self.of.contains_key(key)
    }

    /// Which secrets there are notes about.
    pub fn keys(&self) -> impl Iterator<Item = &SnapshotKey> {
        self.of.keys()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::snapshot::tests::{document, document_of};

    #[test]
    fn a_note_counts_before_the_sign_of_life_and_this_before_the_time_of_the_content() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let (own, other) = (document(1, "{}"), document_of("other", 1, "{}"));
        let mut notes = Notes::default();
        assert_eq!(notes.confirmed(&own), own.time());
        assert!(notes.read(&note(None, at(50)).unwrap()));
        assert!(notes.read(&note(Some(own.key()), at(40)).unwrap()));
        assert_eq!(notes.confirmed(&own), at(40));
        assert_eq!(notes.confirmed(&other), at(50));
        assert!(is_note(&note_key(own.key()).unwrap()) && is_note(&alive_key().unwrap()));
    }

    #[test]
    fn what_is_no_note_is_not_understood() {
        let memfd = memfd::sealed(&[b"{}"]).unwrap();
        assert!(!Notes::default().read(&memfd));
    }
}
