//! Why Safe was not asked, or did not do it: each says what to do.

use std::{io, path::PathBuf, time::Duration};

use spiffe::{SpiffeId, TrustDomain};
use tonic::Code;
use vsecm_safe_api::{client::ClientError, wire::WireError};

use crate::command::Exit;

/// Why there is no session with Safe.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("cannot read the token of sentinel, {}", path.display())]
    Token {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the token of sentinel, {}, is not one line of ASCII", .0.display())]
    TokenText(PathBuf),
    #[error("SPIRE gave no identity within {timeout:?}: {state} ({workload_api})")]
    NoIdentity {
        timeout: Duration,
        /// What is there instead.
        state: &'static str,
        workload_api: String,
    },
    #[error("cannot use SPIRE's Workload API at {workload_api}: {cause}")]
    WorkloadApi { workload_api: String, cause: String },
    #[error(
        "SPIRE gave this process the identity {id}, which is not of the trust domain {expected}"
    )]
    ForeignIdentity { id: SpiffeId, expected: TrustDomain },
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Why a call was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("Safe refused ({code:?}): {message}")]
    Refused { code: Code, message: String },
    #[error("Safe cannot do it now: {0}")]
    Unable(String),
    #[error("the server at {address} is not Safe: {cause}")]
    Impostor { address: String, cause: String },
    #[error("cannot talk to Safe at {address}: {cause}")]
    Unreachable { address: String, cause: String },
    #[error("Safe at {address} did not answer within {deadline:?}, so whether it was done is open")]
    Silent { address: String, deadline: Duration },
    #[error("the answer of Safe is not understood")]
    Answer(#[from] WireError),
    #[error("it was not tried, since the one before did not reach Safe")]
    NotTried,
}

impl CallError {
    /// A word for programs.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Session(SessionError::Token { .. } | SessionError::TokenText(_)) => "no-token",
            Self::Session(
                SessionError::NoIdentity { .. }
                | SessionError::WorkloadApi { .. }
                | SessionError::ForeignIdentity { .. },
            ) => "no-identity",
            Self::Session(SessionError::Client(_)) | Self::Unreachable { .. } => "unreachable",
            Self::Refused { .. } => "refused",
            Self::Unable(_) => "unavailable",
            Self::Impostor { .. } => "not-safe",
            Self::Silent { .. } => "no-answer",
            Self::Answer(_) => "not-understood",
            Self::NotTried => "not-tried",
        }
    }

    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Refused { .. } | Self::Unable(_) | Self::Answer(_) => Exit::Refused,
            Self::Session(_)
            | Self::Impostor { .. }
            | Self::Unreachable { .. }
            | Self::Silent { .. }
            | Self::NotTried => Exit::Unreachable,
        }
    }

    /// What to do about it.
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::Session(SessionError::Token { .. } | SessionError::TokenText(_)) => {
                "run this in sentinel's pod, or set VSECM_SENTINEL_TOKEN_FILE"
            }
            Self::Session(SessionError::NoIdentity { .. } | SessionError::WorkloadApi { .. }) => {
                "check that the SPIRE agent of this node runs, that SPIFFE_ENDPOINT_SOCKET names \
                 its socket, and that SPIRE has an entry for sentinel"
            }
            Self::Session(SessionError::ForeignIdentity { .. }) => {
                "set SPIFFE_TRUST_DOMAIN to the trust domain of SPIRE"
            }
            Self::Session(SessionError::Client(_)) | Self::Unreachable { .. } => {
                "check that Safe runs and that VSECM_SAFE_ENDPOINT_URL is its address, \
                 then run the command again"
            }
            Self::Refused { code: Code::PermissionDenied | Code::Unauthenticated, .. } => {
                "check that this runs as sentinel (VSECM_SPIFFEID_PREFIX_SENTINEL of Safe) \
                 with sentinel's token (VSECM_SENTINEL_TOKEN_FILE)"
            }
            Self::Refused { code: Code::InvalidArgument, .. } => {
                "correct the command and run it again"
            }
            Self::Refused { .. } => "see Safe's log by the correlation id",
            Self::Unable(_) => {
                "run the command again; if that does not help, see Safe's log by the correlation id"
            }
            Self::Impostor { .. } => {
                "nothing was sent to it; check VSECM_SAFE_ENDPOINT_URL, and that \
                 VSECM_SPIFFEID_PREFIX_SAFE is the pattern of Safe's identity"
            }
            Self::Silent { .. } => "look with safe -l; to run the command again does no harm",
            Self::Answer(_) => "use a safe of the same version as the server",
            Self::NotTried => "run the command again for it",
        }
    }
}
