//! Errors in the kubelet's words: the only place where one becomes a gRPC status.

use std::{error::Error, iter};

use tonic::Status;
use vsecm_node_agent_api::frame::sentence;

use crate::{agent::AgentError, publish::Refusal, volumes::UpError};

/// An error and its causes in one sentence.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let causes: Vec<String> = iter::successors(Some(error), |&e| e.source())
        .map(ToString::to_string)
        .collect();
    sentence(causes.join(": "))
}

/// Final: the kubelet forgets the volume without an unpublish, and nothing was left behind.
pub fn malformed(refusal: &Refusal) -> Status {
    Status::invalid_argument(chain(refusal))
}

/// The kubelet comes again, and an unpublish is sure to come.
pub fn not_now(error: &UpError) -> Status {
    Status::unavailable(chain(error))
}

/// node-agent cannot say how a volume is.
pub fn unknown_state(error: &AgentError) -> Status {
    Status::unavailable(chain(error))
}
