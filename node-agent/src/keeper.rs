//! What outlives this process: descriptors and content at the keeper ([I6]).

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};
use vsecm_node_agent_api::{
    channel::Connection,
    client::{AskError, Door, chain, persist},
    frame::{ContentKey, Descriptor},
    peer::PeerRule,
    volume::{VolumeId, VolumeRecord},
};

use crate::{
    backoff::Backoff,
    peers::{Peer, Peers},
};

/// The keeper answers from memory. No rotation waits longer than this, also behind others.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// Pause before the keeper is dialled again; it doubles while connections do not last …
const REDIAL: Duration = Duration::from_millis(200);
/// … up to this.
const LONGEST_REDIAL: Duration = Duration::from_secs(5);

/// A handle on the keeper. Remembers what was deposited, and gives it back to a keeper that lost it.
#[derive(Clone, Debug)]
pub struct Keeper {
    door: Door,
    connection: Arc<tokio::sync::Mutex<Option<Arc<Connection>>>>,
    /// What the keeper is to have; `None` is to go.
    deposits: Arc<Mutex<BTreeMap<ContentKey, Option<Arc<OwnedFd>>>>>,
    unsettled: Arc<Notify>,
}

impl Keeper {
    /// A handle that dials `path` when it is used.
    pub fn new(path: PathBuf, peer: PeerRule) -> Self {
        Self {
            door: Door { name: "the keeper", socket: path, rule: peer },
            connection: Arc::default(),
            deposits: Arc::default(),
            unsettled: Arc::default(),
        }
    }

    /// Asks on the open connection, or once more on a new one: the keeper may have been started
    /// anew. All questions can be repeated.
    async fn ask<T, F>(&self, question: impl Fn(Arc<Connection>) -> F) -> Result<T, AskError>
    where
        F: Future<Output = Result<T, AskError>>,
    {
        let asked = async {
            let mut connection = self.connection.lock().await;
            if let Some(open) = connection.take() {
                match question(Arc::clone(&open)).await {
                    Err(AskError::Away(..)) => {}
                    answer => {
                        keep(&mut connection, open, &answer);
                        return answer;
                    }
                }
            }
            let new = Arc::new(self.door.dial().await?);
            let answer = question(Arc::clone(&new)).await;
            keep(&mut connection, new, &answer);
            drop(connection);
            answer
        };
        let late = |_elapsed| Err(AskError::Late(self.door.name));
        timeout(ANSWER_WAIT, asked).await.unwrap_or_else(late)
    }

    /// Waits until the keeper answers, at most for `patience`.
    ///
    /// # Errors
    /// What the last attempt met.
    pub async fn wait(&self, patience: Duration) -> Result<(), AskError> {
        let answers = || self.ask(|keeper| async move { self.door.records(&keeper).await });
        match timeout(patience, persist("waiting for the keeper", answers)).await {
            Ok(_records) => Ok(()),
            Err(_elapsed) => answers().await.map(|_records| ()),
        }
    }

    /// All volumes with their `/dev/fuse` descriptors.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn volumes(&self) -> Result<Vec<(VolumeRecord, OwnedFd)>, AskError> {
        let records = self.ask(|keeper| async move { self.door.records(&keeper).await });
        let mut all = Vec::new();
        for record in records.await? {
            if let Some(descriptor) = self.descriptor(&record.volume).await? {
                all.push((record, descriptor));
            }
        }
        Ok(all)
    }

    /// A volume's `/dev/fuse` descriptor, if the keeper has it.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn descriptor(&self, volume: &VolumeId) -> Result<Option<OwnedFd>, AskError> {
        let fuse = Descriptor::Fuse;
        self.ask(|keeper| async move { self.door.descriptor(&keeper, volume, fuse).await }).await
    }

    /// All content that was deposited by a predecessor; from now on it counts as ours.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn contents(&self) -> Result<Vec<(ContentKey, Arc<OwnedFd>)>, AskError> {
        let keys = self.ask(|keeper| async move { self.door.contents(&keeper).await });
        let mut all = Vec::new();
        for key in &keys.await? {
            let memfd = self.ask(|keeper| async move { self.door.content(&keeper, key).await });
            if let Some(memfd) = memfd.await?.map(Arc::new) {
                self.deposits().insert(key.clone(), Some(Arc::clone(&memfd)));
                all.push((key.clone(), memfd));
            }
        }
        Ok(all)
    }

    fn deposits(&self) -> MutexGuard<'_, BTreeMap<ContentKey, Option<Arc<OwnedFd>>>> {
        self.deposits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deposits a memfd. If the keeper is away the deposit is made when it comes back; a warning
    /// says that until then a death of this process would need Safe.
    pub async fn deposit(&self, key: ContentKey, memfd: Arc<OwnedFd>) {
        self.deposits().insert(key.clone(), Some(memfd));
        self.settle_or_later(&key).await;
    }

    /// Forgets a memfd.
    pub async fn remove(&self, key: ContentKey) {
        self.deposits().insert(key.clone(), None);
        self.settle_or_later(&key).await;
    }

    async fn settle_or_later(&self, key: &ContentKey) {
        if let Err(error) = self.settle(key).await {
            warn!(reason = chain(&error), "the keeper is told of content later");
            self.unsettled.notify_one();
        }
    }

    /// Makes the keeper's entry what it is to be now. Settles run one after another and each looks
    /// in its turn; so however deposits, removals and a new keeper cross, nothing old comes back.
    async fn settle(&self, key: &ContentKey) -> Result<(), AskError> {
        let settled = self.ask(|keeper| async move {
            let deposit = self.deposits().get(key).cloned().flatten();
            match deposit {
                Some(memfd) => self.door.put_content(&keeper, key, &memfd).await,
                None => self.door.remove_content(&keeper, key).await,
            }
        });
        match settled.await {
            // it has no room, and would have none at once
            Err(refused @ AskError::Refused(..)) => {
                warn!(
                    reason = chain(&refused),
                    "content is not deposited: a death of this process would need Safe"
                );
            }
            settled => settled?,
        }
        let mut deposits = self.deposits();
        if deposits.get(key).is_some_and(Option::is_none) {
            deposits.remove(key);
        }
        drop(deposits);
        Ok(())
    }

    /// Settles all deposits with each new keeper, and after each settle that failed. Never ends.
    pub async fn attend(self, peers: Peers) {
        let mut backoff = Backoff::new(REDIAL, LONGEST_REDIAL);
        loop {
            let what = "not all content is deposited yet";
            // a connection of its own, on which nothing is said: its end is the keeper's
            let connection = persist(what, || self.settle_all()).await;
            let visit = peers.visit(Peer::Keeper, connection.peer().map_or(0, |peer| peer.pid));
            let began = Instant::now();
            tokio::select! {
                () = connection.closed() => warn!("the keeper is gone"),
                () = self.unsettled.notified() => backoff.reset(),
            }
            drop(visit);
            // one that turns every connection away is not asked five times a second for ever
            if began.elapsed() > LONGEST_REDIAL {
                backoff.reset();
            }
            sleep(backoff.pause()).await;
        }
    }

    async fn settle_all(&self) -> Result<Connection, AskError> {
        let connection = self.door.dial().await?;
        let keys: Vec<_> = self.deposits().keys().cloned().collect();
        for key in &keys {
            self.settle(key).await?;
        }
        info!(count = keys.len(), "all content is deposited");
        Ok(connection)
    }
}

/// Keeps a connection on which nothing is under way: an answer that comes late must not be taken
/// for that of the next question.
fn keep<T>(
    slot: &mut Option<Arc<Connection>>,
    connection: Arc<Connection>,
    answer: &Result<T, AskError>,
) {
    if matches!(answer, Ok(_) | Err(AskError::Refused(..))) {
        *slot = Some(connection);
    }
}
