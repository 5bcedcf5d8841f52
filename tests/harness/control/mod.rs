//! How the commands for pods reach `up`: one request per connection on a Unix socket, then lines
//! of replies.

mod server;

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

pub(crate) use self::server::{Control, serve};
use crate::{kubelet::spec::PodSpec, layout::Layout};

/// Whether `pod create` returns before the volume is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Wait {
    ForVolume,
    No,
}

/// A pod's name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PodName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// What `up` is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    Create { spec: PodSpec, wait: Wait },
    Delete(PodName),
    List,
    Describe(PodName),
}

/// A pod as `up` knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PodInfo {
    pub(crate) name: PodName,
    pub(crate) workload: String,
    pub(crate) state: String,
    pub(crate) event: Option<String>,
    pub(crate) volume: PathBuf,
    pub(crate) link: PathBuf,
    pub(crate) identity_socket: PathBuf,
}

/// What `up` answers; anything but `Progress` is the last line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Progress(String),
    Pod(PodInfo),
    Pods(Vec<PodInfo>),
    Done,
    Failed(String),
}

/// `up` could not be asked, or said no.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// Nobody answers.
    #[error("no playground runs in {}: start one with `vsecm-playground up {}`", folder.display(), folder.display())]
    NotRunning {
        /// Where.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The conversation broke.
    #[error("the playground did not answer")]
    Broken(#[source] io::Error),
    /// It answered something else.
    #[error("the playground's answer is not understood")]
    Malformed(#[from] serde_json::Error),
    /// It refused.
    #[error("{0}")]
    Refused(String),
}

/// Asks `up` in the folder of `layout`; `progress` hears what happens meanwhile.
pub(crate) fn ask(
    layout: &Layout,
    request: &Request,
    mut progress: impl FnMut(&str) -> io::Result<()>,
) -> Result<Reply, ControlError> {
    let dialled = UnixStream::connect(layout.control_socket());
    let mut stream = dialled
        .map_err(|source| ControlError::NotRunning { folder: layout.root().to_owned(), source })?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(ControlError::Broken)?;
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line.map_err(ControlError::Broken)?)? {
            Reply::Progress(text) => progress(&text).map_err(ControlError::Broken)?,
            Reply::Failed(sentence) => return Err(ControlError::Refused(sentence)),
            last => return Ok(last),
        }
    }
    let cut = io::Error::from(io::ErrorKind::UnexpectedEof);
    Err(ControlError::Broken(cut))
}
