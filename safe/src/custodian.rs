//! The task that owns vault, store and seal.
//!
//! A write is persisted, then published, then acknowledged: nothing is shown or confirmed that a
//! kill could undo ([I1]), and who was told OK finds what was written. Writes that come while a
//! batch is on its way to the disk form the next batch, which shares its fsyncs.

use std::{collections::BTreeMap, sync::Arc, thread, time::Duration};

use time::OffsetDateTime;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::sleep,
};
use vsecm_safe_api::{
    client::chain,
    name::SecretKey,
    position::Revision,
    state::{Format, Reason},
};

use crate::{
    feed::Feed,
    recovery::Recovered,
    seal::{SealError, Sealer},
    store::{Store, StoreError, Write},
    vault::{Draft, Entry, PutError, Selected, Slot, Vault},
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

/// One line of an operator's list.
#[derive(Debug)]
pub struct Listed {
    /// The key.
    pub key: SecretKey,
    /// The write it stems from.
    pub revision: Revision,
    /// How it is to be shown.
    pub format: Format,
    /// When it was first registered.
    pub created: Option<OffsetDateTime>,
    /// When this value was registered.
    pub updated: Option<OffsetDateTime>,
    /// From when on it is served.
    pub not_before: Option<OffsetDateTime>,
    /// From when on it is not served any more.
    pub expires: Option<OffsetDateTime>,
    /// Bytes of the value.
    pub size: usize,
    /// Why workloads get no value now, if they get none.
    pub absent: Option<Reason>,
}

enum Command {
    Put {
        key: SecretKey,
        draft: Draft,
        reply: oneshot::Sender<Result<Revision, WriteError>>,
    },
    Delete {
        key: SecretKey,
        reply: oneshot::Sender<Result<Option<Revision>, WriteError>>,
    },
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

/// Who is told when a record is durable.
enum Waiting {
    Put(oneshot::Sender<Result<Revision, WriteError>>, Revision),
    Delete(
        oneshot::Sender<Result<Option<Revision>, WriteError>>,
        Option<Revision>,
    ),
}

impl Waiting {
    /// A caller who has gone away needs no answer.
    fn tell(self, outcome: Result<(), String>) {
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
struct Change {
    entry: Entry,
    waiting: Vec<Waiting>,
}

type Batch = BTreeMap<SecretKey, Change>;
type Persisted = Vec<(SecretKey, Change, Result<(), String>)>;

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
    let custodian = Custodian {
        vault,
        revision,
        sealer: Arc::new(sealer),
        store,
        feed: Arc::clone(&feed),
    };
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
        Some(tokio::task::spawn_blocking(move || {
            persist(&sealer, &*store, batch)
        }))
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
        match Entry::put(self.latest(batch, &key), draft, revision, now) {
            Ok(entry) => {
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
            add(
                batch,
                key,
                tombstone,
                Waiting::Delete(reply, Some(revision)),
            );
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
        slots
            .filter_map(|(key, slot)| listed(key, slot, now))
            .collect()
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

fn add(batch: &mut Batch, key: SecretKey, entry: Entry, waiting: Waiting) {
    let mut all = batch
        .remove(&key)
        .map_or_else(Vec::new, |change| change.waiting);
    all.push(waiting);
    let waiting = all;
    batch.insert(key, Change { entry, waiting });
}

/// Seals and stores a batch. Blocks.
fn persist(sealer: &Sealer, store: &dyn Store, batch: Batch) -> Persisted {
    let results = seal_all(sealer, &batch);
    let mut writes = Vec::with_capacity(batch.len());
    let mut outcomes: BTreeMap<SecretKey, Result<(), String>> = BTreeMap::new();
    for (key, result) in batch.keys().zip(results) {
        match result {
            Ok(bytes) => writes.push(Write {
                key: key.clone(),
                sealed: bytes,
            }),
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
                    each.map(|(key, change)| sealer.seal(key, &change.entry))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let shares = workers.into_iter().map(|worker| {
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        shares.flatten().collect()
    })
}

fn listed(key: &SecretKey, slot: &Slot, now: OffsetDateTime) -> Option<Listed> {
    let Slot::Stored(entry) = slot else {
        return Some(Listed {
            key: key.clone(),
            revision: Revision::default(),
            format: Format::default(),
            created: None,
            updated: None,
            not_before: None,
            expires: None,
            size: 0,
            absent: Some(Reason::Unreadable),
        });
    };
    let (created, version) = entry.listed(now)?;
    let absent = match entry.select(now) {
        Selected::Current { .. } => None,
        Selected::Absent { reason, .. } => Some(reason),
    };
    Some(Listed {
        key: key.clone(),
        revision: version.revision,
        format: version.format,
        created: Some(created),
        updated: Some(version.updated),
        not_before: version.not_before,
        expires: version.expires,
        size: version
            .document
            .as_ref()
            .map_or(0, |document| document.size()),
        absent,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use vsecm_safe_api::{position::Lineage, value::SecretValue};

    use super::*;
    use crate::{
        recovery::recover,
        seal::RootKey,
        store::{Found, MemoryStore, suite},
    };

    /// A disk that can be held up or be full.
    #[derive(Debug)]
    struct Disk {
        inner: MemoryStore,
        gate: tokio::sync::Mutex<()>,
        batches: Mutex<Vec<usize>>,
        is_full: std::sync::atomic::AtomicBool,
    }

    impl Disk {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                inner: MemoryStore::new().unwrap(),
                gate: tokio::sync::Mutex::default(),
                batches: Mutex::default(),
                is_full: false.into(),
            })
        }
    }

    impl Store for Disk {
        fn lineage(&self) -> &Lineage {
            self.inner.lineage()
        }

        fn load(&self) -> Result<Vec<Found>, StoreError> {
            self.inner.load()
        }

        fn write(&self, batch: &[Write]) -> Vec<Result<(), StoreError>> {
            let gate = self.gate.blocking_lock();
            self.batches.lock().unwrap().push(batch.len());
            drop(gate);
            if self.is_full.load(std::sync::atomic::Ordering::SeqCst) {
                let full = |write: &Write| StoreError::File {
                    action: "write",
                    path: write.key.to_string().into(),
                    source: std::io::ErrorKind::StorageFull.into(),
                };
                return batch.iter().map(|write| Err(full(write))).collect();
            }
            self.inner.write(batch)
        }

        fn set_aside(&self, key: &SecretKey) -> Result<String, StoreError> {
            self.inner.set_aside(key)
        }
    }

    fn key(name: &str) -> SecretKey {
        suite::key("default", name)
    }

    fn draft(value: &str) -> Draft {
        Draft {
            document: SecretValue::new(value.as_bytes().to_vec()).unwrap(),
            format: Format::Raw,
            not_before: None,
            expires: None,
        }
    }

    fn begin(disk: &Arc<Disk>) -> (Handle, Arc<Feed>, JoinHandle<()>) {
        let sealer = Sealer::new(RootKey::generate().unwrap());
        let recovered = Recovered {
            vault: Vault::default(),
            revision: Revision(0),
        };
        start(recovered, sealer, Arc::clone(disk) as Arc<dyn Store>)
    }

    fn outcome(feed: &Feed, name: &str) -> &'static str {
        feed.current(&key(name), OffsetDateTime::now_utc())
            .outcome()
    }

    #[tokio::test]
    async fn nothing_is_shown_or_confirmed_before_it_is_durable() {
        let disk = Disk::new();
        let (handle, feed, _task) = begin(&disk);
        let gate = disk.gate.lock().await;
        let put = tokio::spawn({
            let handle = handle.clone();
            async move { handle.put(key("a"), draft("x")).await }
        });
        // lists are answered while a batch is on its way: the put was taken before or comes after
        for _ in 0..3 {
            assert!(handle.list().await.unwrap().is_empty());
        }
        assert!(!put.is_finished());
        assert_eq!(outcome(&feed, "a"), "not registered");
        drop(gate);
        assert_eq!(put.await.unwrap().unwrap(), Revision(1));
        assert_eq!(outcome(&feed, "a"), "delivered");
    }

    #[tokio::test]
    async fn writes_that_come_meanwhile_share_a_batch() {
        let disk = Disk::new();
        let (handle, _feed, task) = begin(&disk);
        let gate = disk.gate.lock().await;
        let names: Vec<String> = (0..50).map(|n| format!("n{n}")).collect();
        let puts: Vec<_> = names
            .iter()
            .map(|name| {
                let (handle, key) = (handle.clone(), key(name));
                tokio::spawn(async move { handle.put(key, draft("x")).await })
            })
            .collect();
        tokio::task::yield_now().await;
        drop(gate);
        let mut revisions = Vec::new();
        for put in puts {
            revisions.push(put.await.unwrap().unwrap().0);
        }
        revisions.sort_unstable();
        assert_eq!(revisions, (1..=50).collect::<Vec<_>>());
        assert!(
            disk.batches.lock().unwrap().len() < 25,
            "{:?}",
            disk.batches
        );
        drop(handle);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_full_disk_changes_nothing_and_gives_no_revision_twice() {
        let disk = Disk::new();
        let (handle, feed, _task) = begin(&disk);
        handle.put(key("a"), draft("x")).await.unwrap();
        disk.is_full
            .store(true, std::sync::atomic::Ordering::SeqCst);
        let refusal = handle.put(key("a"), draft("y")).await.unwrap_err();
        assert!(matches!(refusal, WriteError::NotDurable(_)), "{refusal}");
        assert!(handle.delete(key("a")).await.is_err());
        assert_eq!(
            feed.current(&key("a"), OffsetDateTime::now_utc())
                .revision(),
            Revision(1)
        );
        disk.is_full
            .store(false, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(handle.put(key("a"), draft("y")).await.unwrap(), Revision(4));
    }

    #[tokio::test]
    async fn a_deletion_is_a_durable_record_and_happens_once() {
        let disk = Disk::new();
        let (handle, feed, task) = begin(&disk);
        handle.put(key("a"), draft("x")).await.unwrap();
        assert_eq!(handle.delete(key("a")).await.unwrap(), Some(Revision(2)));
        assert_eq!(outcome(&feed, "a"), "deleted");
        assert_eq!(handle.delete(key("a")).await.unwrap(), None);
        assert_eq!(handle.delete(key("b")).await.unwrap(), None);
        assert!(handle.list().await.unwrap().is_empty());
        drop(handle);
        task.await.unwrap();
        assert_eq!(disk.load().unwrap().len(), 1, "a tombstone is a record");
    }

    #[tokio::test]
    async fn a_pending_version_and_an_expiry_come_by_themselves() {
        let disk = Disk::new();
        let (handle, feed, _task) = begin(&disk);
        let soon =
            |milliseconds| OffsetDateTime::now_utc() + time::Duration::milliseconds(milliseconds);
        let pending = Draft {
            not_before: Some(soon(300)),
            expires: Some(soon(900)),
            ..draft("later")
        };
        handle.put(key("a"), pending).await.unwrap();
        let mut states = feed.watch(&key("a"));
        let mut seen = vec![states.borrow_and_update().outcome()];
        while seen.last() != Some(&"expired") {
            states.changed().await.unwrap();
            seen.push(states.borrow_and_update().outcome());
        }
        // a slow machine may show only the newest of them
        let all = ["not yet valid", "delivered", "expired"];
        seen.dedup();
        assert!(
            all.ends_with(&seen) || seen == ["not yet valid", "expired"],
            "{seen:?}"
        );
        let listed = handle.list().await.unwrap();
        assert_eq!(listed[0].absent, Some(Reason::Expired));
    }

    #[tokio::test]
    async fn an_unreadable_secret_can_be_registered_again() {
        let disk = Disk::new();
        let sealer = Sealer::new(RootKey::generate().unwrap());
        suite::write(&disk.inner, &key("a"), b"rubbish");
        let found = disk.load().unwrap();
        let recovered = recover(&*disk, &sealer, found, OffsetDateTime::now_utc()).unwrap();
        let (handle, feed, _task) = start(recovered, sealer, Arc::clone(&disk) as Arc<dyn Store>);
        assert_eq!(outcome(&feed, "a"), "unreadable");
        assert_eq!(
            handle.list().await.unwrap()[0].absent,
            Some(Reason::Unreadable)
        );
        handle.put(key("a"), draft("x")).await.unwrap();
        assert_eq!(outcome(&feed, "a"), "delivered");
    }
}
