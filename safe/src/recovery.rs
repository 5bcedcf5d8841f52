//! From what a store holds to a vault, at start.

use std::{collections::BTreeSet, thread};

use time::OffsetDateTime;
use vsecm_safe_api::{client::chain, name::SecretKey, position::Revision};

use crate::{
    entry::Entry,
    seal::{Fingerprint, OpenError, Sealer, StoredRecords, peek},
    store::{Found, Store},
    vault::{Slot, Vault},
};

/// A record that cannot be read may have held the newest revision; no revision is ever given to
/// two writes, so the count goes on behind a gap that no such record can have crossed.
const GAP_AFTER_DAMAGE: u64 = 1 << 20;

/// Why Safe cannot start with these records.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// None opens, since they are sealed for another key.
    #[error(
        "the root key here has the fingerprint {present}, but none of the {count} records opens \
         with it: they are sealed for the root key {needed}; put that key back"
    )]
    WrongKey {
        /// The key that is there.
        present: Fingerprint,
        /// The key that they name.
        needed: Fingerprint,
        /// How many there are.
        count: usize,
    },
}

/// What a store held.
#[derive(Debug)]
pub struct Recovered {
    /// All that could be read, and marks for what could not.
    pub vault: Vault,
    /// The newest revision.
    pub revision: Revision,
}

/// What the root key's file must fit to.
pub fn stored_records(found: &[Found]) -> StoredRecords {
    if found.is_empty() {
        return StoredRecords::None;
    }
    let fingerprints: BTreeSet<Fingerprint> = found
        .iter()
        .filter_map(|found| match found {
            Found::Record { sealed, .. } => Some(peek(sealed)?.fingerprint),
            _other => None,
        })
        .collect();
    StoredRecords::SealedFor(fingerprints)
}

/// Opens all records. One that does not open is set aside with a loud line; its key is known and
/// answered as unreadable; the others are served.
pub fn recover(
    store: &dyn Store,
    sealer: &Sealer,
    found: Vec<Found>,
    now: OffsetDateTime,
) -> Result<Recovered, RecoveryError> {
    let mut vault = Vault::default();
    let mut newest = Revision(0);
    let mut aside: BTreeSet<SecretKey> = BTreeSet::new();
    let mut records = Vec::new();
    for found in found {
        match found {
            Found::Record { key, sealed } => records.push((key, sealed)),
            Found::Unreadable { key, error } => {
                tracing::error!(secret = %key, error = chain(&error), "a record cannot be read");
                aside.insert(key);
            }
            Found::SetAside { key } => {
                aside.insert(key);
            }
            Found::Foreign { place } => {
                tracing::warn!(file = place, "not a record of this Safe; left alone");
            }
        }
    }
    let count = records.len();
    let (opened, refused) = open_all(sealer, &records);
    if opened.is_empty()
        && let Some(needed) = refused.iter().find_map(|(_, why)| why.other_key())
    {
        return Err(RecoveryError::WrongKey {
            present: sealer.fingerprint().clone(),
            needed: needed.clone(),
            count,
        });
    }
    for (key, why) in refused {
        match store.set_aside(&key) {
            Ok(place) => tracing::error!(
                secret = %key, file = place, error = chain(&why),
                "A RECORD DOES NOT OPEN and was set aside; register the secret again"
            ),
            Err(error) => tracing::error!(
                secret = %key, error = chain(&why), set_aside_error = chain(&error),
                "A RECORD DOES NOT OPEN and could not be set aside"
            ),
        }
        aside.insert(key);
    }
    for (key, entry) in opened {
        newest = newest.max(entry.revision());
        vault.install(key, Slot::Stored(entry), now);
    }
    if !aside.is_empty() {
        newest = Revision(newest.0.saturating_add(GAP_AFTER_DAMAGE));
    }
    for key in aside {
        if vault.get(&key).is_none() {
            tracing::warn!(secret = %key, "unreadable: its record is set aside");
            vault.install(key, Slot::Unreadable, now);
        }
    }
    vault.wake(now);
    Ok(Recovered { vault, revision: newest })
}

/// Why a record is not taken.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("it does not open")]
    Seal(#[source] OpenError),
    #[error("it holds the record of {0}: somebody has moved it")]
    Moved(SecretKey),
}

impl Refusal {
    fn other_key(&self) -> Option<&Fingerprint> {
        match self {
            Self::Seal(OpenError::WrongKey { needed, .. }) => Some(needed),
            _other => None,
        }
    }
}

type Opened = Vec<(SecretKey, Entry)>;
type Refused = Vec<(SecretKey, Refusal)>;

/// X25519 takes most of the time of a start: all cores share it.
fn open_all(sealer: &Sealer, records: &[(SecretKey, Vec<u8>)]) -> (Opened, Refused) {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let share = records.len().div_ceil(cores).max(1);
    let results: Vec<(SecretKey, Result<Entry, Refusal>)> = thread::scope(|scope| {
        let workers: Vec<_> = records
            .chunks(share)
            .map(|chunk| {
                scope.spawn(move || {
                    let each = chunk.iter();
                    let opened = each.map(|(key, sealed)| (key.clone(), open(sealer, key, sealed)));
                    opened.collect::<Vec<_>>()
                })
            })
            .collect();
        let shares = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        shares.flatten().collect()
    });
    let (mut opened, mut refused) = (Vec::new(), Vec::new());
    for (key, result) in results {
        match result {
            Ok(entry) => opened.push((key, entry)),
            Err(why) => refused.push((key, why)),
        }
    }
    (opened, refused)
}

fn open(sealer: &Sealer, key: &SecretKey, bytes: &[u8]) -> Result<Entry, Refusal> {
    let (inside, entry) = sealer.open(bytes).map_err(Refusal::Seal)?;
    if inside != *key {
        return Err(Refusal::Moved(inside));
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        seal::RootKey,
        store::{MemoryStore, suite},
    };

    fn sealer() -> Sealer {
        Sealer::new(RootKey::generate().unwrap())
    }

    fn tombstone(revision: u64) -> Entry {
        Entry::Deleted { revision: Revision(revision), at: OffsetDateTime::UNIX_EPOCH }
    }

    fn recover(store: &MemoryStore, sealer: &Sealer) -> Result<Recovered, RecoveryError> {
        let found = store.load().unwrap();
        super::recover(store, sealer, found, OffsetDateTime::UNIX_EPOCH)
    }

    fn put(store: &MemoryStore, sealer: &Sealer, name: &str, revision: u64) {
        let key = suite::key("default", name);
        let bytes = sealer.seal(&key, &tombstone(revision)).unwrap();
        suite::write(store, &key, &bytes);
    }

    #[test]
    fn the_newest_revision_is_found_again() {
        let (store, sealer) = (MemoryStore::new().unwrap(), sealer());
        assert_eq!(recover(&store, &sealer).unwrap().revision, Revision(0));
        put(&store, &sealer, "a", 7);
        put(&store, &sealer, "b", 3);
        assert_eq!(recover(&store, &sealer).unwrap().revision, Revision(7));
    }

    #[test]
    fn a_damaged_record_is_set_aside_and_the_others_are_served() {
        let (store, sealer) = (MemoryStore::new().unwrap(), sealer());
        put(&store, &sealer, "good", 7);
        let bad = suite::key("default", "bad");
        suite::write(&store, &bad, b"age-encryption.org/v1\nrubbish");
        for start in ["the first", "the next"] {
            let recovered = recover(&store, &sealer).unwrap();
            assert!(matches!(recovered.vault.get(&bad), Some(Slot::Unreadable)), "{start}");
            assert_eq!(recovered.vault.iter().count(), 2);
            assert_eq!(recovered.revision, Revision(7 + GAP_AFTER_DAMAGE));
        }
        put(&store, &sealer, "bad", 8 + GAP_AFTER_DAMAGE);
        let recovered = recover(&store, &sealer).unwrap();
        assert!(matches!(recovered.vault.get(&bad), Some(Slot::Stored(_))));
    }

    #[test]
    fn a_record_under_another_ones_name_is_refused() {
        let (store, sealer) = (MemoryStore::new().unwrap(), sealer());
        let (a, b) = (suite::key("default", "a"), suite::key("shop", "a"));
        suite::write(&store, &b, &sealer.seal(&a, &tombstone(1)).unwrap());
        let recovered = recover(&store, &sealer).unwrap();
        assert!(matches!(recovered.vault.get(&b), Some(Slot::Unreadable)));
        assert!(recovered.vault.get(&a).is_none());
    }

    #[test]
    fn a_wrong_root_key_touches_nothing_and_names_the_one_that_is_needed() {
        let (store, theirs) = (MemoryStore::new().unwrap(), sealer());
        put(&store, &theirs, "a", 1);
        let error = recover(&store, &sealer()).unwrap_err();
        assert!(error.to_string().contains(&theirs.fingerprint().to_string()));
        assert_eq!(suite::records(&store).len(), 1);
        let StoredRecords::SealedFor(named) = stored_records(&store.load().unwrap()) else {
            panic!("there are records")
        };
        assert_eq!(named, [theirs.fingerprint().clone()].into());
    }
}
