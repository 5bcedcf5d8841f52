//! The one place where errors become status codes.

use tonic::Status;
use vsecm_safe_api::wire::WireError;

use crate::{
    admin_proof::ProofError,
    custodian::WriteError,
    deliveries::{AcknowledgeError, PageError, Refusal, ReportError},
};

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

pub(super) fn from_acknowledge(error: &AcknowledgeError) -> Status {
    match error {
        AcknowledgeError::Refused(Refusal::OtherSecret) => {
            Status::permission_denied(error.to_string())
        }
        // the watch may just have broken: on its next one it can be acknowledged
        AcknowledgeError::Refused(Refusal::NoWatch | Refusal::NotSent) => {
            Status::failed_precondition(error.to_string())
        }
        AcknowledgeError::Full(_) => Status::resource_exhausted(error.to_string()),
    }
}

pub(super) fn from_report(error: &ReportError) -> Status {
    Status::invalid_argument(error.to_string())
}

pub(super) fn from_page(error: PageError) -> Status {
    match error {
        PageError::Full(_) => Status::resource_exhausted(error.to_string()),
        PageError::Superseded => Status::aborted(error.to_string()),
    }
}
