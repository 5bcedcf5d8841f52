//! The one place where errors become status codes.

use tonic::Status;
use vsecm_safe_api::wire::WireError;

use crate::{admin_proof::ProofError, custodian::WriteError};

pub(super) fn from_wire(error: &WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

pub(super) fn from_write(error: &WriteError) -> Status {
    match error {
        WriteError::Refused(refusal) => Status::invalid_argument(refusal.to_string()),
        WriteError::NotDurable(_) | WriteError::Stopped => Status::unavailable(error.to_string()),
    }
}

pub(super) fn from_proof(error: &ProofError) -> Status {
    match error {
        ProofError::Missing | ProofError::Refused(_) => {
            Status::permission_denied(error.to_string())
        }
        ProofError::Unavailable(_) => Status::unavailable(error.to_string()),
        // trying again does not help before someone mends the cluster's roles
        ProofError::Forbidden(_) => Status::failed_precondition(error.to_string()),
    }
}
