//! Changes that go to the disk together.

use std::{collections::BTreeMap, thread};

use tokio::sync::oneshot;
use vsecm_safe_api::{client::chain, name::SecretKey, position::Revision};

use super::WriteError;
use crate::{
    entry::Entry,
    seal::{SealError, Sealer},
    store::{Store, StoreError, Write},
};

/// Who is told when a record is durable.
pub(super) enum Waiting {
    Put(oneshot::Sender<Result<Revision, WriteError>>, Revision),
    Delete(oneshot::Sender<Result<Option<Revision>, WriteError>>, Option<Revision>),
}

impl Waiting {
    /// A caller who has gone away needs no answer.
    pub(super) fn tell(self, outcome: Result<(), String>) {
        match self {
            Self::Put(reply, revision) => {
                let answer = outcome.map(|()| revision).map_err(WriteError::NotDurable);
                let _gone = reply.send(answer);
            }
            Self::Delete(reply, revision) => {
                let answer = outcome.map(|()| revision).map_err(WriteError::NotDurable);
                let _gone = reply.send(answer);
            }
        }
    }
}

/// One key's part of a batch: its last state, and all who wait for it.
pub(super) struct Change {
    pub(super) entry: Entry,
    pub(super) waiting: Vec<Waiting>,
}

pub(super) type Batch = BTreeMap<SecretKey, Change>;
pub(super) type Persisted = Vec<(SecretKey, Change, Result<(), String>)>;

pub(super) fn add(batch: &mut Batch, key: SecretKey, entry: Entry, waiting: Waiting) {
    let mut all = batch.remove(&key).map_or_else(Vec::new, |change| change.waiting);
    all.push(waiting);
    let waiting = all;
    batch.insert(key, Change { entry, waiting });
}

/// Seals and stores a batch. Blocks.
pub(super) fn persist(sealer: &Sealer, store: &dyn Store, batch: Batch) -> Persisted {
    let results = seal_all(sealer, &batch);
    let mut writes = Vec::with_capacity(batch.len());
    let mut outcomes: BTreeMap<SecretKey, Result<(), String>> = BTreeMap::new();
    for (key, result) in batch.keys().zip(results) {
        match result {
            Ok(bytes) => writes.push(Write { key: key.clone(), sealed: bytes }),
            Err(error) => {
                outcomes.insert(key.clone(), Err(chain(&error)));
            }
        }
    }
    let stored = store.write(&writes);
    for (write, result) in writes.into_iter().zip(stored) {
        let outcome = result.map_err(|error: StoreError| chain(&error));
        outcomes.insert(write.key, outcome);
    }
    let unknown = || Err("the store gave no answer".to_owned());
    batch
        .into_iter()
        .map(|(key, change)| {
            let outcome = outcomes.remove(&key).unwrap_or_else(unknown);
            (key, change, outcome)
        })
        .collect()
}

fn seal_all(sealer: &Sealer, batch: &Batch) -> Vec<Result<Vec<u8>, SealError>> {
    let changes: Vec<(&SecretKey, &Change)> = batch.iter().collect();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let share = changes.len().div_ceil(cores).max(1);
    thread::scope(|scope| {
        let workers: Vec<_> = changes
            .chunks(share)
            .map(|chunk| {
                scope.spawn(|| {
                    let each = chunk.iter();
                    each.map(|(key, change)| sealer.seal(key, &change.entry)).collect::<Vec<_>>()
                })
            })
            .collect();
        let shares = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        shares.flatten().collect()
    })
}
