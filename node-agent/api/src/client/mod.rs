//! How to ask node-agent and keeper: bounded, whatever they do.

use std::{
    error::Error,
    iter,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{sleep, timeout};

use crate::{
    channel::{ChannelError, Connection},
    frame::{AgentReply, AgentRequest, Gravity, Serving, sentence},
    listing::Listed,
    peer::PeerRule,
    volume::{VolumeId, VolumeRecord},
};

mod keeper;

/// Volumes of a list that are read at most; a node has fewer.
const VOLUME_LIMIT: usize = 8192;

/// Both answer from memory, in microseconds; one that takes this long is stopped or stuck.
pub const PATIENCE: Duration = Duration::from_secs(4);

/// A volume whose content is not in node-agent's memory is resumed only once it is. It says why
/// before csi's [`PATIENCE`] ends, and csi asks again.
pub const RESUME_WAIT: Duration = Duration::from_secs(3);

/// The first pause before a peer is dialled again: a supervisor takes milliseconds.
pub const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// Why a peer did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// It cannot be reached: it is not running, or has just died.
    #[error("{0} cannot be reached")]
    Away(&'static str, #[source] ChannelError),
    /// It does not answer.
    #[error("{0} does not answer")]
    Late(&'static str),
    /// It said no, and why.
    #[error("{0} refuses: {1}")]
    Refused(&'static str, String),
    /// It said something that is no answer to this request.
    #[error("{0} gave an answer that does not fit")]
    Unexpected(&'static str),
}

/// What node-agent knows of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeState {
    /// Whether it answers the kernel for it.
    pub serving: Serving,
    /// What an operator should know, if anything.
    pub condition: Option<String>,
    /// How grave that is.
    pub gravity: Gravity,
    /// Bytes of content shown.
    pub bytes: u64,
    /// Files shown.
    pub files: u64,
}

/// The socket of a peer, and who must be there.
#[derive(Clone, Debug)]
pub struct Door {
    /// What the peer is called in errors.
    pub name: &'static str,
    /// Where it listens.
    pub socket: PathBuf,
    /// Who must be there.
    pub rule: PeerRule,
}

impl Door {
    /// Dials the peer.
    ///
    /// # Errors
    /// [`AskError::Away`], [`AskError::Late`].
    pub async fn dial(&self) -> Result<Connection, AskError> {
        let dialled = Connection::dial(&self.socket, &self.rule);
        self.within(PATIENCE, dialled).await
    }

    /// Has node-agent get a volume's content into memory, for `hold` at most. A reason says why
    /// there is none yet, or no more.
    ///
    /// # Errors
    /// Any [`AskError`].
    pub async fn attach(
        &self,
        record: &VolumeRecord,
        hold: Duration,
    ) -> Result<Option<String>, AskError> {
        let hold_ms = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
        let record = record.clone();
        let attach = AgentRequest::Attach { record, hold_ms };
        match self.ask_agent(&attach, None, PATIENCE + hold).await? {
            AgentReply::Ready => Ok(None),
            AgentReply::Waiting { reason } | AgentReply::Withdrawn { reason } => Ok(Some(reason)),
            _ => Err(AskError::Unexpected(self.name)),
        }
    }

    /// Has node-agent serve a superblock: `Serve` or `Resume`.
    ///
    /// # Errors
    /// Any [`AskError`].
    pub async fn serve(&self, request: &AgentRequest, fuse: &OwnedFd) -> Result<(), AskError> {
        match self.ask_agent(request, Some(fuse), PATIENCE).await? {
            AgentReply::Served => Ok(()),
            _ => Err(AskError::Unexpected(self.name)),
        }
    }

    /// Has node-agent forget a volume.
    ///
    /// # Errors
    /// Any [`AskError`].
    pub async fn detach(&self, volume: &VolumeId) -> Result<(), AskError> {
        let volume = volume.clone();
        let detach = AgentRequest::Detach { volume };
        match self.ask_agent(&detach, None, PATIENCE).await? {
            AgentReply::Done => Ok(()),
            _ => Err(AskError::Unexpected(self.name)),
        }
    }

    /// What node-agent knows of a volume.
    ///
    /// # Errors
    /// Any [`AskError`].
    pub async fn state(&self, volume: &VolumeId) -> Result<VolumeState, AskError> {
        let volume = volume.clone();
        let state = AgentRequest::State { volume };
        match self.ask_agent(&state, None, PATIENCE).await? {
            AgentReply::State { serving, condition, gravity, bytes, files } => {
                Ok(VolumeState { serving, condition, gravity, bytes, files })
            }
            _ => Err(AskError::Unexpected(self.name)),
        }
    }

    /// All volumes that node-agent knows.
    ///
    /// # Errors
    /// Any [`AskError`].
    pub async fn volumes(&self) -> Result<Vec<Listed>, AskError> {
        let mut all: Vec<Listed> = Vec::new();
        while all.len() <= VOLUME_LIMIT {
            let after = all.last().map(|listed| listed.volume.clone());
            match self.ask_agent(&AgentRequest::Volumes { after }, None, PATIENCE).await? {
                AgentReply::Volumes { volumes } if volumes.is_empty() => return Ok(all),
                AgentReply::Volumes { volumes } => all.extend(volumes),
                _ => break,
            }
        }
        Err(AskError::Unexpected(self.name))
    }

    /// A connection that carries node-agent's orders from now on.
    ///
    /// # Errors
    /// Any [`AskError`].
    pub async fn duty(&self) -> Result<Connection, AskError> {
        let agent = self.dial().await?;
        match self.call(&agent, &AgentRequest::Duty, None, PATIENCE).await? {
            (AgentReply::Done, _) => Ok(agent),
            _ => Err(AskError::Unexpected(self.name)),
        }
    }

    async fn ask_agent(
        &self,
        request: &AgentRequest,
        fuse: Option<&OwnedFd>,
        patience: Duration,
    ) -> Result<AgentReply, AskError> {
        let agent = self.dial().await?;
        match self.call(&agent, request, fuse, patience).await? {
            (AgentReply::Refused { reason }, _) => Err(AskError::Refused(self.name, reason)),
            (reply, _) => Ok(reply),
        }
    }

    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        connection: &Connection,
        request: &Q,
        fd: Option<&OwnedFd>,
        patience: Duration,
    ) -> Result<(A, Vec<OwnedFd>), AskError> {
        let fds: Vec<_> = fd.into_iter().map(AsFd::as_fd).collect();
        self.within(patience, connection.call(request, &fds)).await
    }

    async fn within<T>(
        &self,
        patience: Duration,
        call: impl Future<Output = Result<T, ChannelError>>,
    ) -> Result<T, AskError> {
        let done = timeout(patience, call).await;
        done.map_err(|_late| AskError::Late(self.name))?.map_err(|e| AskError::Away(self.name, e))
    }
}

/// Tries until it succeeds, with [`pauses`]; the first failure is a warning, as `what`.
pub async fn persist<T, E, F>(what: &'static str, mut attempt: impl FnMut() -> F) -> T
where
    E: Error + 'static,
    F: Future<Output = Result<T, E>>,
{
    let mut pauses = pauses().enumerate();
    loop {
        let error = match attempt().await {
            Ok(done) => return done,
            Err(error) => error,
        };
        let (failures, pause) = pauses.next().unwrap_or_default();
        if failures == 0 {
            tracing::warn!(error = chain(&error), "{what}");
        } else {
            tracing::debug!(error = chain(&error), "{what}");
        }
        sleep(pause).await;
    }
}

/// Pauses before a peer is dialled again: [`FIRST_PAUSE`], doubled up to 1 s.
pub fn pauses() -> impl Iterator<Item = Duration> {
    let longest = Duration::from_secs(1);
    iter::successors(Some(FIRST_PAUSE), move |pause| Some((*pause * 2).min(longest)))
}

/// An error and its causes in one sentence.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = iter::successors(Some(error), |&e| e.source()).map(ToString::to_string);
    sentence(causes.collect::<Vec<_>>().join(": "))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_is_not_there_is_said_to_be_away_with_the_cause() {
        let door = Door {
            name: "node-agent",
            socket: Path::new("/nowhere/s").to_owned(),
            rule: PeerRule::Uid(0),
        };
        let error = door.dial().await.unwrap_err();
        let text = chain(&error);
        assert!(text.starts_with("node-agent cannot be reached: "), "{text}");
        assert!(text.contains("/nowhere/s"), "{text}");
        assert!(text.contains("No such file"), "{text}");
    }

    #[tokio::test]
    async fn what_fails_is_tried_until_it_succeeds() {
        let mut failures = 3;
        let attempt = || {
            failures -= 1;
            std::future::ready(if failures == 0 { Ok(5) } else { Err(AskError::Late("x")) })
        };
        assert_eq!(persist("not yet", attempt).await, 5);
    }

    #[test]
    fn pauses_grow_to_a_second() {
        let all: Vec<_> = pauses().take(9).map(|p| p.as_millis()).collect();
        assert_eq!(all, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    }
}
