use std::sync::Mutex;

use vsecm_safe_api::{
    position::Lineage,
    state::{Format, Reason},
    value::SecretValue,
};

use super::*;
use crate::{
    recovery::recover,
    seal::RootKey,
    store::{Found, MemoryStore, StoreError, Write, suite},
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
    let recovered = Recovered { vault: Vault::default(), revision: Revision(0) };
    start(recovered, sealer, Arc::clone(disk) as Arc<dyn Store>)
}

fn outcome(feed: &Feed, name: &str) -> &'static str {
    feed.current(&key(name), OffsetDateTime::now_utc()).outcome()
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
    assert!(disk.batches.lock().unwrap().len() < 25, "{:?}", disk.batches);
    drop(handle);
    task.await.unwrap();
}

#[tokio::test]
async fn a_full_disk_changes_nothing_and_gives_no_revision_twice() {
    let disk = Disk::new();
    let (handle, feed, _task) = begin(&disk);
    handle.put(key("a"), draft("x")).await.unwrap();
    disk.is_full.store(true, std::sync::atomic::Ordering::SeqCst);
    let refusal = handle.put(key("a"), draft("y")).await.unwrap_err();
    assert!(matches!(refusal, WriteError::NotDurable(_)), "{refusal}");
    assert!(handle.delete(key("a")).await.is_err());
    assert_eq!(feed.current(&key("a"), OffsetDateTime::now_utc()).revision(), Revision(1));
    disk.is_full.store(false, std::sync::atomic::Ordering::SeqCst);
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
    let pending = Draft { not_before: Some(soon(300)), expires: Some(soon(900)), ..draft("later") };
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
    assert!(all.ends_with(&seen) || seen == ["not yet valid", "expired"], "{seen:?}");
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
    assert_eq!(handle.list().await.unwrap()[0].absent, Some(Reason::Unreadable));
    handle.put(key("a"), draft("x")).await.unwrap();
    assert_eq!(outcome(&feed, "a"), "delivered");
}
