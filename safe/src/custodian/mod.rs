//! The task that owns vault, store and seal.
//!
//! A write is persisted, then published, then acknowledged: nothing is shown or confirmed that a
//! kill could undo ([I1]), and who was told OK finds what was written. Writes that come while a
//! batch is on its way to the disk form the next batch, which shares its fsyncs.

mod batch;
mod listed;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::sleep,
};
use vsecm_safe_api::{name::SecretKey, position::Revision};

use self::batch::{Batch, Persisted, Waiting, add, persist};
pub use self::listed::Listed;
use self::listed::listed;
use crate::{
    entry::{Draft, Entry, PutError},
    feed::Feed,
    recovery::Recovered,
    seal::Sealer,
    store::Store,
    vault::{Slot, Vault},
};

/// Writes in one batch at most: bounds memory (1 MiB each) and the time of the first of them.
const BATCH: usize = 64;
/// Writes that wait for the next batch at most; more callers wait in their own tasks.
const QUEUE: usize = 256;
/// Longest sleep before the wall clock is read again: it may be set while we sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Why a write was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// It makes no sense.
    #[error(transparent)]
    Refused(#[from] PutError),
    /// It could not be made durable.
    #[error("Safe could not store it ({0}); it is not confirmed, try again")]
    NotDurable(String),
    /// Safe is going down.
    #[error("Safe is shutting down; try again")]
    Stopped,
}

enum Command {
    Put { key: SecretKey, draft: Draft, reply: oneshot::Sender<Result<Revision, WriteError>> },
    Delete { key: SecretKey, reply: oneshot::Sender<Result<Option<Revision>, WriteError>> },
}

/// The way to the custodian.
#[derive(Debug, Clone)]
pub struct Handle {
    writes: mpsc::Sender<Command>,
    lists: mpsc::Sender<oneshot::Sender<Vec<Listed>>>,
}

impl Handle {
    /// Registers a value; returns once it is on stable storage.
    pub async fn put(&self, key: SecretKey, draft: Draft) -> Result<Revision, WriteError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Put { key, draft, reply };
        self.send(command).await?;
        answer.await.unwrap_or(Err(WriteError::Stopped))
    }

    /// Deletes a value; returns once that is on stable storage. `None`: there was nothing.
    pub async fn delete(&self, key: SecretKey) -> Result<Option<Revision>, WriteError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Delete { key, reply }).await?;
        answer.await.unwrap_or(Err(WriteError::Stopped))
    }

    /// What is registered, in the order of the keys. Tombstones are not listed.
    pub async fn list(&self) -> Result<Vec<Listed>, WriteError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.lists.send(reply).await;
        sent.map_err(|_closed| WriteError::Stopped)?;
        answer.await.map_err(|_closed| WriteError::Stopped)
    }

    async fn send(&self, command: Command) -> Result<(), WriteError> {
        let sent = self.writes.send(command).await;
        sent.map_err(|_closed| WriteError::Stopped)
    }
}

struct Custodian {
    vault: Vault,
    revision: Revision,
    sealer: Arc<Sealer>,
    store: Arc<dyn Store>,
    feed: Arc<Feed>,
}

/// Publishes what was recovered and starts the task. It ends, with all it was given on stable
/// storage, when the last handle is dropped.
pub fn start(
    recovered: Recovered,
    sealer: Sealer,
    store: Arc<dyn Store>,
) -> (Handle, Arc<Feed>, JoinHandle<()>) {
    let feed = Arc::new(Feed::new(store.lineage().clone()));
    let Recovered { vault, revision } = recovered;
    feed.advance(revision);
    let now = OffsetDateTime::now_utc();
    for (key, slot) in vault.iter() {
        feed.publish(key, slot, now);
    }
    let (writes, write_queue) = mpsc::channel(QUEUE);
    let (lists, list_queue) = mpsc::channel(1);
    let custodian =
        Custodian { vault, revision, sealer: Arc::new(sealer), store, feed: Arc::clone(&feed) };
    let task = tokio::spawn(custodian.run(write_queue, list_queue));
    (Handle { writes, lists }, feed, task)
}

impl Custodian {
    async fn run(
        mut self,
        mut writes: mpsc::Receiver<Command>,
        mut lists: mpsc::Receiver<oneshot::Sender<Vec<Listed>>>,
    ) {
        let mut commands = Vec::with_capacity(BATCH);
        let mut on_its_way: Option<JoinHandle<Persisted>> = None;
        loop {
            let pause = self.pause();
            tokio::select! {
                () = sleep(pause.unwrap_or(LONGEST_SLEEP)), if pause.is_some() => self.wake(),
                persisted = arrival(&mut on_its_way), if on_its_way.is_some() => {
                    on_its_way = None;
                    self.finish(persisted);
                }
                received = writes.recv_many(&mut commands, BATCH), if on_its_way.is_none() => {
                    if received == 0 {
                        break;
                    }
                    on_its_way = self.begin(&mut commands);
                }
                Some(reply) = lists.recv() => {
                    let _gone = reply.send(self.list());
                }
            }
        }
    }

    /// How long nothing changes by itself; `None`: for ever.
    fn pause(&self) -> Option<Duration> {
        let event = self.vault.next_event()?;
        let left = event - OffsetDateTime::now_utc();
        Some(Duration::try_from(left).map_or(Duration::ZERO, |left| left.min(LONGEST_SLEEP)))
    }

    fn wake(&mut self) {
        let now = OffsetDateTime::now_utc();
        for key in self.vault.wake(now) {
            if let Some(slot) = self.vault.get(&key) {
                self.feed.publish(&key, slot, now);
            }
        }
    }

    /// Decides on the commands and sends the records on their way, sealing outside this task.
    fn begin(&mut self, commands: &mut Vec<Command>) -> Option<JoinHandle<Persisted>> {
        let now = OffsetDateTime::now_utc();
        let mut batch = Batch::new();
        for command in commands.drain(..) {
            match command {
                Command::Put { key, draft, reply } => {
                    self.put(&mut batch, key, draft, reply, now);
                }
                Command::Delete { key, reply } => self.delete(&mut batch, key, reply, now),
            }
        }
        if batch.is_empty() {
            return None;
        }
        let (sealer, store) = (Arc::clone(&self.sealer), Arc::clone(&self.store));
        Some(tokio::task::spawn_blocking(move || persist(&sealer, &*store, batch)))
    }

    /// The state that the next command on this key starts from.
    fn latest<'a>(&'a self, batch: &'a Batch, key: &SecretKey) -> Option<&'a Entry> {
        match batch.get(key) {
            Some(change) => Some(&change.entry),
            None => match self.vault.get(key)? {
                Slot::Stored(entry) => Some(entry),
                Slot::Unreadable => None,
            },
        }
    }

    fn put(
        &mut self,
        batch: &mut Batch,
        key: SecretKey,
        draft: Draft,
        reply: oneshot::Sender<Result<Revision, WriteError>>,
        now: OffsetDateTime,
    ) {
        let revision = self.revision.next();
        let previous = self.latest(batch, &key);
        let waited = previous.map_or(0, |entry| entry.pending(now));
        match Entry::put(previous, draft, revision, now) {
            Ok(entry) => {
                // an operator may have forgotten what was scheduled
                if entry.pending(now) < waited {
                    tracing::warn!(secret = %key, "a put replaced versions that were to come later");
                }
                self.revision = revision;
                add(batch, key, entry, Waiting::Put(reply, revision));
            }
            Err(refusal) => {
                let _gone = reply.send(Err(refusal.into()));
            }
        }
    }

    fn delete(
        &mut self,
        batch: &mut Batch,
        key: SecretKey,
        reply: oneshot::Sender<Result<Option<Revision>, WriteError>>,
        now: OffsetDateTime,
    ) {
        let is_there = match self.latest(batch, &key) {
            Some(Entry::Live { .. }) => true,
            Some(Entry::Deleted { .. }) => false,
            None => self.vault.get(&key).is_some(),
        };
        if is_there {
            self.revision = self.revision.next();
            let (revision, at) = (self.revision, now);
            let tombstone = Entry::Deleted { revision, at };
            add(batch, key, tombstone, Waiting::Delete(reply, Some(revision)));
        } else if let Some(change) = batch.get_mut(&key) {
            // deleted by a command before this one, whose fate this answer shares
            change.waiting.push(Waiting::Delete(reply, None));
        } else {
            let _gone = reply.send(Ok(None));
        }
    }

    fn finish(&mut self, persisted: Persisted) {
        let now = OffsetDateTime::now_utc();
        self.feed.advance(self.revision);
        for (key, change, outcome) in persisted {
            match &outcome {
                Ok(()) => {
                    let slot = Slot::Stored(change.entry);
                    self.feed.publish(&key, &slot, now);
                    self.vault.install(key, slot, now);
                }
                Err(error) => tracing::error!(secret = %key, error, "a record was not stored"),
            }
            for waiting in change.waiting {
                waiting.tell(outcome.clone());
            }
        }
    }

    fn list(&self) -> Vec<Listed> {
        let now = OffsetDateTime::now_utc();
        let slots = self.vault.iter();
        slots.filter_map(|(key, slot)| listed(key, slot, now)).collect()
    }
}

async fn arrival(on_its_way: &mut Option<JoinHandle<Persisted>>) -> Persisted {
    match on_its_way {
        None => std::future::pending().await,
        Some(task) => match task.await {
            Ok(persisted) => persisted,
            // it was neither cancelled nor is there a state to go on from
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        },
    }
}
