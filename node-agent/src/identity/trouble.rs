//! Why a pod has no identity, or why nothing newer is known of it, in words ([I10]). Pure.

use std::time::SystemTime;

use tonic::{Code, Status};

use crate::wait::{Wait, moment};

/// Why SPIRE gives a pod no identity now.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trouble {
    /// The question is open: SPIRE's agent signs, or cannot reach its server.
    #[error("its agent has not answered since {}; it may be unable to reach SPIRE's server", moment(*since))]
    Asking {
        /// Since when.
        since: SystemTime,
    },
    /// Nothing tells which of several is meant.
    #[error(
        "{} identities fit the pod ({}); exactly one registration entry must match the workload pattern",
        ids.len(),
        ids.join(", ")
    )]
    Ambiguous {
        /// The SPIFFE IDs.
        ids: Vec<String>,
    },
    /// An identity of workloads, yet not this pod's as the kubelet names it.
    #[error("it offers {id}, which is refused: {differs}")]
    Foreign {
        /// The SPIFFE ID.
        id: String,
        /// In what it differs from what the kubelet said.
        differs: String,
    },
    /// Identities that are none of workloads.
    #[error(
        "it offers {}, which the workload pattern does not match; the pod needs the label \
         vsecm.com/workload, or a ClusterSPIFFEID whose template makes such an identity",
        ids.join(", ")
    )]
    NoWorkload {
        /// The SPIFFE IDs.
        ids: Vec<String>,
    },
    /// Something that is not understood.
    #[error("it offers an identity that is not understood")]
    Unreadable,
    /// The agent's socket is not there, or nobody answers.
    #[error("its agent cannot be reached since {}: {reason}", moment(*since))]
    Unreachable {
        /// Since when.
        since: SystemTime,
        /// Why.
        reason: String,
    },
    /// The agent knows no entry for this process.
    #[error(
        "this node agent has no identity of its own from SPIRE yet, so its agent answers no question \
         about pods ({reason})"
    )]
    NoOwnIdentity {
        /// What the agent said.
        reason: String,
    },
    /// The agent knows this process, and does not let it ask.
    #[error(
        "this node agent is not configured as an authorized delegate: its SPIFFE ID must stand in \
         authorized_delegates of SPIRE's agent ({reason})"
    )]
    NoDelegate {
        /// What the agent said.
        reason: String,
    },
}

impl Trouble {
    /// What a refusal of the agent, or its failure, means.
    pub(super) fn of_status(status: &Status, since: SystemTime) -> Self {
        let reason = status.message().to_owned();
        match status.code() {
            Code::PermissionDenied if reason.contains("authorized delegate") => {
                Self::NoDelegate { reason }
            }
            Code::PermissionDenied => Self::NoOwnIdentity { reason },
            code => Self::Unreachable { since, reason: format!("{code:?}: {reason}") },
        }
    }

    /// Since when it lasts, if that is told.
    pub(super) fn since(&self) -> Option<SystemTime> {
        match self {
            Self::Unreachable { since, .. } => Some(*since),
            _ => None,
        }
    }

    /// What kind of wait it causes.
    pub fn wait(&self) -> Wait {
        match self {
            Self::Asking { .. } => Wait::SpireSilent,
            Self::Ambiguous { .. } => Wait::AmbiguousIdentity,
            Self::Foreign { .. } => Wait::ForeignIdentity,
            Self::NoWorkload { .. } => Wait::NoEntry,
            Self::Unreadable => Wait::UnreadableIdentity,
            Self::Unreachable { .. } => Wait::SpireUnreachable,
            Self::NoOwnIdentity { .. } => Wait::NoOwnIdentity,
            Self::NoDelegate { .. } => Wait::NoDelegate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_agent_refuses_with_tells_a_missing_entry_from_a_missing_right() {
        let now = SystemTime::UNIX_EPOCH;
        let said = |code, text: &str| Trouble::of_status(&Status::new(code, text), now);
        let unknown = said(Code::PermissionDenied, "no identity issued");
        assert_eq!(unknown.wait(), Wait::NoOwnIdentity);
        assert!(unknown.to_string().contains("has no identity of its own from SPIRE yet"));
        let refused =
            said(Code::PermissionDenied, "caller not configured as an authorized delegate");
        assert_eq!(refused.wait(), Wait::NoDelegate);
        assert!(refused.to_string().contains("not configured as an authorized delegate"));
        // the caller could not be attested: INTERNAL up to SPIRE 1.15.1, UNAVAILABLE since
        for code in [Code::Internal, Code::Unavailable] {
            let failed = said(code, "workload attestation failed");
            assert_eq!(failed.wait(), Wait::SpireUnreachable);
            let sentence = failed.to_string();
            assert!(sentence.contains("since 1970-01-01T00:00:00Z"), "{sentence}");
            assert!(sentence.contains("workload attestation failed"), "{sentence}");
        }
    }
}
