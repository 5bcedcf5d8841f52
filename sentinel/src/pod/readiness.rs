//! Whether `safe` can be run here, and what is missing where it cannot. Pure, but for the token's
//! file.

use std::{fs, io, path::Path};

use time::OffsetDateTime;
use vsecm_safe_api::{
    client::chain,
    probe::Readiness,
    role::{SENTINEL_PATTERN, TRUST_DOMAIN},
};
use zeroize::Zeroizing;

use crate::validity::written;

/// What is known of the own identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// SPIRE has not answered yet.
    Unknown,
    /// It is there until this time, also while SPIRE cannot be asked.
    Issued { until: OffsetDateTime },
    /// It is not.
    Lacking(Lack),
}

/// Why there is no identity of sentinel's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Lack {
    #[error(
        "the socket of SPIRE's Workload API, {0}, does not exist: check that the SPIRE agent of \
         this node runs and that SPIFFE_ENDPOINT_SOCKET names its socket"
    )]
    Socket(String),
    #[error("cannot use SPIRE's Workload API at {workload_api}: {cause}")]
    WorkloadApi { workload_api: String, cause: String },
    #[error(
        "SPIRE has no entry for this pod: check that the ClusterSPIFFEID of sentinel is there and \
         has the class name of the controller manager"
    )]
    Entry,
    #[error(
        "SPIRE gave this pod the identity {id}, which is not of the trust domain {expected}: set \
         {TRUST_DOMAIN} to the trust domain of SPIRE"
    )]
    Foreign { id: String, expected: String },
    #[error(
        "SPIRE knows this pod as {ids}, which {SENTINEL_PATTERN} does not take for sentinel: make \
         the ClusterSPIFFEID of sentinel and the pattern fit each other"
    )]
    Stranger { ids: String },
    #[error("the certificate that SPIRE gave cannot be read")]
    Certificate,
}

/// Why the token is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("the token of sentinel cannot be read")]
    Read(#[source] io::Error),
    #[error("the token of sentinel is blank")]
    Blank,
}

/// Whether all is there; else all that is missing, in words.
pub(super) fn ready(standing: &Standing, token: &Path, now: OffsetDateTime) -> Readiness {
    let identity = match standing {
        Standing::Unknown => Some("SPIRE has not answered yet".to_owned()),
        Standing::Issued { until } if *until <= now => Some(format!(
            "the identity of sentinel has expired at {} and SPIRE gave no newer one: check the \
             SPIRE agent of this node and the SPIRE server",
            written(*until)
        )),
        Standing::Issued { .. } => None,
        Standing::Lacking(lack) => Some(lack.to_string()),
    };
    let proof = look_at(token).err().map(|error| {
        format!(
            "{}, {}: check the projected volume of sentinel's pod and VSECM_SENTINEL_TOKEN_FILE",
            chain(&error),
            token.display()
        )
    });
    let missing: Vec<String> = identity.into_iter().chain(proof).collect();
    if missing.is_empty() { Ok(()) } else { Err(missing.join("; ")) }
}

fn look_at(token: &Path) -> Result<(), TokenError> {
    let bytes = Zeroizing::new(fs::read(token).map_err(TokenError::Read)?);
    if bytes.trim_ascii().is_empty() { Err(TokenError::Blank) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn token(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn issued(seconds: i64) -> Standing {
        Standing::Issued { until: NOW + time::Duration::seconds(seconds) }
    }

    #[test]
    fn with_a_valid_identity_and_a_token_nothing_is_missing() {
        assert_eq!(ready(&issued(1), token("t\n").path(), NOW), Ok(()));
    }

    #[test]
    fn an_identity_is_missing_from_the_second_of_its_end() {
        let said = ready(&issued(0), token("t").path(), NOW).unwrap_err();
        assert!(said.contains("has expired at 1970-01-01T00:00:00Z"), "{said}");
    }

    #[test]
    fn all_that_is_missing_is_said_at_once() {
        let nowhere = Path::new("/nonexistent/token");
        let said = ready(&Standing::Lacking(Lack::Entry), nowhere, NOW).unwrap_err();
        for part in ["SPIRE has no entry", "; ", "cannot be read", "/nonexistent/token"] {
            assert!(said.contains(part), "{said}");
        }
        let said = ready(&Standing::Unknown, token(" \n").path(), NOW).unwrap_err();
        assert!(said.contains("not answered yet") && said.contains("is blank"), "{said}");
    }
}
