//! Where sealed records rest.

#[cfg(test)]
mod crash;
mod file;
// pure, and hidden rather than private: the fuzzer in `tests/fuzz` has to be another crate
#[doc(hidden)]
pub mod file_name;
mod folder;
mod memory;

use std::{io, path::PathBuf};

use vsecm_safe_api::{name::SecretKey, position::Lineage};

pub use self::{file::FileStore, memory::MemoryStore};

/// What a store could not do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process works on it.
    #[error(
        "another Safe works on the data folder {folder}: two would overwrite each other's records"
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// An operation on a file failed.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The file with the store's id is not what it was.
    #[error("{path} does not hold the id of this store (32 hex digits); restore it or remove it")]
    Lineage {
        /// The file.
        path: PathBuf,
    },
    /// The random source failed.
    #[error("no random bytes for the id of a new store ({reason})")]
    Random {
        /// Why.
        reason: String,
    },
}

/// One thing that was found in a store.
#[derive(Debug)]
pub enum Found {
    /// A record.
    Record {
        /// Of which key.
        key: SecretKey,
        /// Its sealed bytes.
        sealed: Vec<u8>,
    },
    /// A record whose bytes cannot even be read. It stays where it is.
    Unreadable {
        /// Of which key.
        key: SecretKey,
        /// Why.
        error: StoreError,
    },
    /// A record that was set aside before.
    SetAside {
        /// Of which key.
        key: SecretKey,
    },
    /// A file that may hold a secret but is no record of ours.
    Foreign {
        /// Where.
        place: String,
    },
}

/// A record to be written.
#[derive(Debug)]
pub struct Write {
    /// Of which key.
    pub key: SecretKey,
    /// Its sealed bytes.
    pub sealed: Vec<u8>,
}

/// One sealed record per key, on stable storage. The calls block.
pub trait Store: Send + Sync + 'static {
    /// The random id that was given to this store when it was made.
    fn lineage(&self) -> &Lineage;

    /// All that is there.
    fn load(&self) -> Result<Vec<Found>, StoreError>;

    /// Replaces records, each as a whole; a result is `Ok` only when its record is on stable
    /// storage ([I1]). A batch has a key at most once. Results are in the order of the batch.
    fn write(&self, batch: &[Write]) -> Vec<Result<(), StoreError>>;

    /// Moves a record out of the way, for an operator to look at. Says where it is now.
    fn set_aside(&self, key: &SecretKey) -> Result<String, StoreError>;
}

/// What every store must do. Each implementation runs it in its own tests.
#[cfg(test)]
pub(crate) mod suite {
    use super::*;

    pub(crate) fn key(namespace: &str, name: &str) -> SecretKey {
        SecretKey::parse(namespace, name).unwrap()
    }

    pub(crate) fn write(store: &dyn Store, key: &SecretKey, sealed: &[u8]) {
        let batch = [Write { key: key.clone(), sealed: sealed.to_vec() }];
        for result in store.write(&batch) {
            result.unwrap();
        }
    }

    pub(crate) fn records(store: &dyn Store) -> Vec<(SecretKey, Vec<u8>)> {
        let mut records: Vec<_> = store
            .load()
            .unwrap()
            .into_iter()
            .filter_map(|found| match found {
                Found::Record { key, sealed } => Some((key, sealed)),
                _other => None,
            })
            .collect();
        records.sort();
        records
    }

    /// Runs the suite. `reopen` gives the same store again, as a new process would see it.
    pub(crate) fn run(
        mut store: Box<dyn Store>,
        reopen: impl Fn(Box<dyn Store>) -> Box<dyn Store>,
    ) {
        let (a, b) = (key("default", "db"), key("shop", "db"));
        assert!(store.load().unwrap().is_empty(), "a new store is empty");
        let lineage = store.lineage().clone();

        write(&*store, &a, b"one");
        write(&*store, &b, b"other namespace");
        write(&*store, &a, b"two");
        store = reopen(store);
        let there = [(a.clone(), b"two".to_vec()), (b.clone(), b"other namespace".to_vec())];
        assert_eq!(records(&*store), there, "a write replaces the record of its key only");
        assert_eq!(*store.lineage(), lineage, "the id stays");

        let batch: Vec<Write> = (0..40)
            .map(|n| Write { key: key("batch", &format!("n{n:02}")), sealed: vec![n] })
            .collect();
        assert!(store.write(&batch).iter().all(Result::is_ok));
        store = reopen(store);
        assert_eq!(records(&*store).len(), 42);

        store.set_aside(&a).unwrap();
        store = reopen(store);
        let is_aside = |found: &Found| matches!(found, Found::SetAside { key } if *key == a);
        assert!(store.load().unwrap().iter().any(is_aside), "its key stays known");
        assert!(records(&*store).iter().all(|(key, _)| *key != a));
        write(&*store, &a, b"three");
        store.set_aside(&a).unwrap();
        write(&*store, &a, b"four");
        store = reopen(store);
        assert!(records(&*store).contains(&(a, b"four".to_vec())));
    }
}
