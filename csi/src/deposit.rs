//! What csi holds, kept by the keeper too ([I6]).
//!
//! There is one operation, [`Deposit::settle`]: make the keeper's entry of a volume what the table
//! says now. Settles run one after another, and each reads the table in its turn; so after the last
//! one the two agree, however publish, unpublish and reconciliation cross.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use tokio::{
    sync::{Mutex, Notify},
    time::timeout,
};
use vsecm_node_agent_api::{
    channel::{ChannelError, Connection},
    frame::{Descriptor, KeeperReply, KeeperRequest},
    peer::PeerRule,
    volume::{VolumeId, VolumeRecord},
};

use crate::{keeper::VOLUME_LIMIT, table::Table};

/// The keeper answers from memory; one that takes this long is stopped or stuck.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why the keeper did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DepositError {
    /// It cannot be reached.
    #[error("the keeper cannot be reached")]
    Channel(#[source] ChannelError),
    /// It does not answer.
    #[error("the keeper has not answered for {} s", PATIENCE.as_secs())]
    Late,
    /// It said no.
    #[error("the keeper refuses: {reason}")]
    Refused {
        /// Its reason.
        reason: String,
    },
    /// It said something that is no answer to this request.
    #[error("the keeper gave an answer that does not fit")]
    Unexpected,
}

/// The keeper's socket.
#[derive(Debug)]
pub struct Deposit {
    socket: PathBuf,
    peer: PeerRule,
    turn: Mutex<()>,
    unsettled: Notify,
}

impl Deposit {
    /// Where the keeper listens and who must be there.
    pub fn new(socket: PathBuf, peer: PeerRule) -> Self {
        Self {
            socket,
            peer,
            turn: Mutex::new(()),
            unsettled: Notify::new(),
        }
    }

    /// Dials the keeper.
    pub async fn dial(&self) -> Result<Connection, DepositError> {
        bounded(Connection::dial(&self.socket, &self.peer)).await
    }

    /// Makes the keeper's entry of a volume what the table says. A failure wakes
    /// [`Self::unsettled`], where it is tried again.
    pub async fn settle(&self, table: &Table, volume: &VolumeId) -> Result<(), DepositError> {
        let settled = timeout(PATIENCE, self.settle_in_turn(table, volume))
            .await
            .unwrap_or(Err(DepositError::Late));
        if settled.is_err() {
            self.unsettled.notify_one();
        }
        settled
    }

    async fn settle_in_turn(&self, table: &Table, volume: &VolumeId) -> Result<(), DepositError> {
        let _turn = self.turn.lock().await;
        let connection = self.dial().await?;
        let Some(held) = table.get(volume) else {
            let volume = volume.clone();
            return done(&connection, &KeeperRequest::RemoveVolume { volume }, None).await;
        };
        for (descriptor, fd) in [
            (Descriptor::Fuse, held.fuse),
            (Descriptor::Mount, held.writable),
        ] {
            if let Some(fd) = fd {
                let record = VolumeRecord::clone(&held.record);
                let request = KeeperRequest::PutVolume { record, descriptor };
                done(&connection, &request, Some(&fd)).await?;
            }
        }
        Ok(())
    }

    /// Resolves after a settle has failed.
    pub async fn unsettled(&self) {
        self.unsettled.notified().await;
    }
}

/// All records that the keeper has.
pub async fn records(connection: &Connection) -> Result<Vec<VolumeRecord>, DepositError> {
    let mut all = Vec::new();
    loop {
        let after = all.last().map(|r: &VolumeRecord| r.volume.clone());
        let asked = KeeperRequest::ListVolumes { after };
        match bounded(connection.call(&asked, &[])).await? {
            (KeeperReply::Volumes { records }, _none) if records.is_empty() => return Ok(all),
            (KeeperReply::Volumes { records }, _none) if all.len() < VOLUME_LIMIT => {
                all.extend(records);
            }
            (other, _) => return Err(not_done(other)),
        }
    }
}

/// A descriptor of a volume, if the keeper has it.
pub async fn descriptor(
    connection: &Connection,
    volume: &VolumeId,
    descriptor: Descriptor,
) -> Result<Option<OwnedFd>, DepositError> {
    let asked = KeeperRequest::GetVolume {
        volume: volume.clone(),
        descriptor,
    };
    match bounded(connection.call(&asked, &[])).await? {
        (KeeperReply::Descriptor, mut fds) if fds.len() == 1 => Ok(fds.pop()),
        (KeeperReply::Unknown, _none) => Ok(None),
        (other, _) => Err(not_done(other)),
    }
}

async fn done(
    connection: &Connection,
    request: &KeeperRequest,
    fd: Option<&OwnedFd>,
) -> Result<(), DepositError> {
    let fds: Vec<_> = fd.into_iter().map(AsFd::as_fd).collect();
    match bounded(connection.call(request, &fds)).await? {
        (KeeperReply::Done, _none) => Ok(()),
        (other, _) => Err(not_done(other)),
    }
}

fn not_done(reply: KeeperReply) -> DepositError {
    match reply {
        KeeperReply::Refused { reason } => DepositError::Refused { reason },
        _ => DepositError::Unexpected,
    }
}

async fn bounded<T>(
    call: impl Future<Output = Result<T, ChannelError>>,
) -> Result<T, DepositError> {
    timeout(PATIENCE, call)
        .await
        .map_err(|_elapsed| DepositError::Late)?
        .map_err(DepositError::Channel)
}
