//! What csi asks of node-agent: one connection per request.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use tokio::time::timeout;
use vsecm_node_agent_api::{
    channel::{ChannelError, Connection},
    frame::{AgentReply, AgentRequest, Serving},
    peer::PeerRule,
    volume::{VolumeId, VolumeRecord},
};

/// An answer from memory takes microseconds; a node-agent that takes this long is stopped or stuck.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why node-agent did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// It cannot be reached: it is starting again, or not running.
    #[error("node-agent cannot be reached")]
    Channel(#[source] ChannelError),
    /// It does not answer.
    #[error("node-agent has not answered for {} s", .0.as_secs())]
    Late(Duration),
    /// It said no.
    #[error("node-agent refuses: {reason}")]
    Refused {
        /// Its reason.
        reason: String,
    },
    /// It said something that is no answer to this request.
    #[error("node-agent gave an answer that does not fit")]
    Unexpected,
}

/// How the wait for the content ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Mount now.
    Ready,
    /// Not yet; why.
    Waiting(String),
    /// The pod's identity is gone; in words.
    Withdrawn(String),
}

/// What node-agent knows of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Whether it answers the kernel for it.
    pub serving: Serving,
    /// What an operator should know.
    pub condition: Option<String>,
    /// Bytes shown.
    pub bytes: u64,
    /// Files shown.
    pub files: u64,
}

/// node-agent's socket.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Where it listens.
    pub socket: PathBuf,
    /// Who must be there.
    pub peer: PeerRule,
}

impl Agent {
    /// Waits until the volume's content is in memory, or `hold` is over.
    pub async fn attach(
        &self,
        record: &VolumeRecord,
        hold: Duration,
    ) -> Result<Verdict, AgentError> {
        let request = AgentRequest::Attach {
            record: record.clone(),
            hold_ms: u64::try_from(hold.as_millis()).unwrap_or(u64::MAX),
        };
        match self.ask(&request, None, hold + PATIENCE).await? {
            AgentReply::Ready => Ok(Verdict::Ready),
            AgentReply::Waiting { reason } => Ok(Verdict::Waiting(reason)),
            AgentReply::Withdrawn { reason } => Ok(Verdict::Withdrawn(reason)),
            _ => Err(AgentError::Unexpected),
        }
    }

    /// Has a fresh superblock served.
    pub async fn serve(&self, volume: &VolumeId, fuse: &OwnedFd) -> Result<(), AgentError> {
        let volume = volume.clone();
        self.served(&AgentRequest::Serve { volume }, fuse).await
    }

    /// Has an initialised superblock served, unless it is.
    pub async fn resume(&self, record: &VolumeRecord, fuse: &OwnedFd) -> Result<(), AgentError> {
        let record = record.clone();
        self.served(&AgentRequest::Resume { record }, fuse).await
    }

    async fn served(&self, request: &AgentRequest, fuse: &OwnedFd) -> Result<(), AgentError> {
        match self.ask(request, Some(fuse), PATIENCE).await? {
            AgentReply::Served => Ok(()),
            _ => Err(AgentError::Unexpected),
        }
    }

    /// Has a volume forgotten.
    pub async fn detach(&self, volume: &VolumeId) -> Result<(), AgentError> {
        let volume = volume.clone();
        match self
            .ask(&AgentRequest::Detach { volume }, None, PATIENCE)
            .await?
        {
            AgentReply::Done => Ok(()),
            _ => Err(AgentError::Unexpected),
        }
    }

    /// What it knows of a volume.
    pub async fn state(&self, volume: &VolumeId) -> Result<State, AgentError> {
        let volume = volume.clone();
        match self
            .ask(&AgentRequest::State { volume }, None, PATIENCE)
            .await?
        {
            AgentReply::State {
                serving,
                condition,
                bytes,
                files,
            } => Ok(State {
                serving,
                condition,
                bytes,
                files,
            }),
            _ => Err(AgentError::Unexpected),
        }
    }

    /// A connection that carries node-agent's orders from now on.
    pub async fn duty(&self) -> Result<Connection, AgentError> {
        let opened = async {
            let connection = Connection::dial(&self.socket, &self.peer).await?;
            let (reply, _none) = connection.call(&AgentRequest::Duty, &[]).await?;
            Ok((connection, reply))
        };
        let (connection, reply) = timeout(PATIENCE, opened)
            .await
            .map_err(|_elapsed| AgentError::Late(PATIENCE))?
            .map_err(AgentError::Channel)?;
        match reply {
            AgentReply::Done => Ok(connection),
            _ => Err(AgentError::Unexpected),
        }
    }

    async fn ask(
        &self,
        request: &AgentRequest,
        fuse: Option<&OwnedFd>,
        patience: Duration,
    ) -> Result<AgentReply, AgentError> {
        let asked = async {
            let connection = Connection::dial(&self.socket, &self.peer).await?;
            let fuse: Vec<_> = fuse.into_iter().map(AsFd::as_fd).collect();
            connection.call(request, &fuse).await
        };
        let (reply, _none) = timeout(patience, asked)
            .await
            .map_err(|_elapsed| AgentError::Late(patience))?
            .map_err(AgentError::Channel)?;
        match reply {
            AgentReply::Refused { reason } => Err(AgentError::Refused { reason }),
            reply => Ok(reply),
        }
    }
}
