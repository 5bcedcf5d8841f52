//! What outlives this process: descriptors and content at the keeper ([I6]).

use std::{
    collections::BTreeMap,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{sleep, timeout};
use tracing::{info, warn};
use vsecm_node_agent_api::{
    channel::{ChannelError, Connection},
    frame::{ContentKey, Descriptor, KeeperReply, KeeperRequest},
    peer::PeerRule,
    volume::{VolumeId, VolumeRecord},
};

/// The keeper answers from memory; a longer wait means that it hangs, and no rotation waits for it.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// Pause before the keeper is dialled again.
const REDIAL: Duration = Duration::from_millis(200);

/// Why the keeper did not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeeperError {
    /// The conversation failed.
    #[error("cannot talk to the keeper")]
    Channel(#[from] ChannelError),
    /// No answer.
    #[error("the keeper did not answer within {} seconds", ANSWER_WAIT.as_secs())]
    Silent,
    /// It said no.
    #[error("the keeper refused: {0}")]
    Refused(String),
    /// Its answer does not belong to the question.
    #[error("the keeper's answer is not understood")]
    Confused,
}

/// A handle on the keeper. Remembers what was deposited, and gives it back to a keeper that lost it.
#[derive(Clone, Debug)]
pub struct Keeper {
    path: PathBuf,
    peer: PeerRule,
    connection: Arc<tokio::sync::Mutex<Option<Connection>>>,
    deposits: Arc<Mutex<BTreeMap<ContentKey, Arc<OwnedFd>>>>,
}

impl Keeper {
    /// A handle that dials `path` when it is used.
    pub fn new(path: PathBuf, peer: PeerRule) -> Self {
        Self {
            path,
            peer,
            connection: Arc::default(),
            deposits: Arc::default(),
        }
    }

    /// Asks on the open connection, or once more on a new one: the keeper may have been started
    /// anew. All requests can be repeated.
    async fn call(
        &self,
        request: &KeeperRequest,
        descriptor: Option<&OwnedFd>,
    ) -> Result<(KeeperReply, Option<OwnedFd>), KeeperError> {
        let mut connection = self.connection.lock().await;
        let was_open = connection.is_some();
        let mut answer = self.ask(&mut connection, request, descriptor).await;
        if was_open && matches!(answer, Err(KeeperError::Channel(_))) {
            answer = self.ask(&mut connection, request, descriptor).await;
        }
        drop(connection);
        match answer? {
            (KeeperReply::Refused { reason }, _) => Err(KeeperError::Refused(reason)),
            answer => Ok(answer),
        }
    }

    async fn ask(
        &self,
        connection: &mut Option<Connection>,
        request: &KeeperRequest,
        descriptor: Option<&OwnedFd>,
    ) -> Result<(KeeperReply, Option<OwnedFd>), KeeperError> {
        let answered = timeout(ANSWER_WAIT, async {
            let open = match connection.take() {
                Some(open) => open,
                None => Connection::dial(&self.path, &self.peer).await?,
            };
            let descriptors: Vec<_> = descriptor.iter().map(|fd| fd.as_fd()).collect();
            let answer = open.call(request, &descriptors).await?;
            Ok::<_, ChannelError>((open, answer))
        });
        // on a failure the connection is dropped: an answer that comes late must not be taken for
        // that of the next question
        let (open, (reply, mut descriptors)) =
            answered.await.map_err(|_elapsed| KeeperError::Silent)??;
        *connection = Some(open);
        Ok((reply, descriptors.pop()))
    }

    /// Waits until the keeper answers, at most for `patience`.
    ///
    /// # Errors
    /// What the last attempt met.
    pub async fn wait(&self, patience: Duration) -> Result<(), KeeperError> {
        let request = KeeperRequest::ListVolumes { after: None };
        let attempts = async {
            loop {
                match self.call(&request, None).await {
                    Ok(_answer) => return,
                    Err(error) => warn!(%error, "waiting for the keeper"),
                }
                sleep(REDIAL).await;
            }
        };
        match timeout(patience, attempts).await {
            Ok(()) => Ok(()),
            Err(_elapsed) => self.call(&request, None).await.map(|_answer| ()),
        }
    }

    /// All volumes with their `/dev/fuse` descriptors.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub async fn volumes(&self) -> Result<Vec<(VolumeRecord, OwnedFd)>, KeeperError> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let request = KeeperRequest::ListVolumes { after };
            let (KeeperReply::Volumes { records }, _) = self.call(&request, None).await? else {
                return Err(KeeperError::Confused);
            };
            let Some(last) = records.last() else {
                return Ok(all);
            };
            after = Some(last.volume.clone());
            for record in records {
                if let Some(descriptor) = self.descriptor(&record.volume).await? {
                    all.push((record, descriptor));
                }
            }
        }
    }

    /// A volume's `/dev/fuse` descriptor, if the keeper has it.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub async fn descriptor(&self, volume: &VolumeId) -> Result<Option<OwnedFd>, KeeperError> {
        let request = KeeperRequest::GetVolume {
            volume: volume.clone(),
            descriptor: Descriptor::Fuse,
        };
        self.get(&request).await
    }

    async fn get(&self, request: &KeeperRequest) -> Result<Option<OwnedFd>, KeeperError> {
        match self.call(request, None).await? {
            (KeeperReply::Descriptor, Some(descriptor)) => Ok(Some(descriptor)),
            (KeeperReply::Unknown, _) => Ok(None),
            _ => Err(KeeperError::Confused),
        }
    }

    /// All content that was deposited by a predecessor; from now on it counts as ours.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub async fn contents(&self) -> Result<Vec<(ContentKey, Arc<OwnedFd>)>, KeeperError> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let request = KeeperRequest::ListContents { after };
            let (KeeperReply::Contents { keys }, _) = self.call(&request, None).await? else {
                return Err(KeeperError::Confused);
            };
            let Some(last) = keys.last() else {
                return Ok(all);
            };
            after = Some(last.clone());
            for key in keys {
                let request = KeeperRequest::GetContent { key: key.clone() };
                if let Some(memfd) = self.get(&request).await? {
                    let memfd = Arc::new(memfd);
                    self.remember(key.clone(), Arc::clone(&memfd));
                    all.push((key, memfd));
                }
            }
        }
    }

    fn remember(&self, key: ContentKey, memfd: Arc<OwnedFd>) {
        let mut deposits = self.deposits.lock().unwrap_or_else(PoisonError::into_inner);
        deposits.insert(key, memfd);
    }

    /// Deposits a memfd. If the keeper is away the deposit is made when it comes back; a warning
    /// says that until then a death of this process would need Safe.
    pub async fn deposit(&self, key: ContentKey, memfd: Arc<OwnedFd>) {
        self.remember(key.clone(), Arc::clone(&memfd));
        let request = KeeperRequest::PutContent { key };
        if let Err(error) = self.call(&request, Some(&memfd)).await {
            warn!(%error, "content is not deposited yet");
        }
    }

    /// Forgets a memfd.
    pub async fn remove(&self, key: ContentKey) {
        {
            let mut deposits = self.deposits.lock().unwrap_or_else(PoisonError::into_inner);
            deposits.remove(&key);
        }
        let request = KeeperRequest::RemoveContent { key };
        if let Err(error) = self.call(&request, None).await {
            warn!(%error, "content that is not needed stays at the keeper");
        }
    }

    /// Gives all deposits back to each new keeper. Never ends.
    pub async fn attend(self) {
        loop {
            // a connection of its own, on which nothing is said: its end is the keeper's
            match Connection::dial(&self.path, &self.peer).await {
                Ok(connection) => match self.give_back().await {
                    Ok(()) => {
                        connection.closed().await;
                        warn!("the keeper is gone");
                    }
                    Err(error) => warn!(%error, "not all content is deposited yet"),
                },
                Err(error) => warn!(%error, "the keeper cannot be reached"),
            }
            sleep(REDIAL).await;
        }
    }

    async fn give_back(&self) -> Result<(), KeeperError> {
        let deposits = {
            let deposits = self.deposits.lock().unwrap_or_else(PoisonError::into_inner);
            deposits.clone()
        };
        let count = deposits.len();
        for (key, memfd) in deposits {
            let request = KeeperRequest::PutContent { key };
            self.call(&request, Some(&memfd)).await?;
        }
        info!(count, "all content is deposited");
        Ok(())
    }
}
