//! Why there is no root key.

use std::{fmt, io, path::PathBuf};

use super::Fingerprint;

/// The key of the item that holds the root key in its Secret, as in VSecM.
pub const ITEM: &str = "KEY_TXT";

/// Where a root key rests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File(PathBuf),
    /// In a Kubernetes Secret.
    Secret {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "root key file {}", path.display()),
            Self::Secret { namespace, name } => {
                write!(f, "item {ITEM} of the Secret {namespace}/{name}")
            }
        }
    }
}

/// Where a root key file cannot be used, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootKeyError {
    /// The file cannot be read.
    #[error("cannot read the root key file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the root key file {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The random source failed.
    #[error("cannot make a root key: no random bytes ({reason})")]
    Random {
        /// Why.
        reason: String,
    },
    /// Too many may read or write the file.
    #[error("the root key file {path} has mode {mode:04o} and owner {owner}: {rule}")]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its owner.
        owner: u32,
        /// What is asked for.
        rule: &'static str,
    },
    /// What is there is no root key.
    #[error("the {place} is not a root key: {rule}")]
    Malformed {
        /// Where it rests.
        place: Place,
        /// What is asked for.
        rule: &'static str,
    },
    /// Sealed records are there, their key is not.
    #[error(
        "the {place} is {state}, but the store holds records sealed for the root key \
         with fingerprint {needed}: put that key back (a new one is never made beside records)"
    )]
    Lost {
        /// Where it should be.
        place: Place,
        /// `missing` or `blank`.
        state: &'static str,
        /// The fingerprints that the records name.
        needed: String,
    },
    /// It is a root key, and not that of the records.
    #[error(
        "the {place} is the root key with fingerprint {present}, but all records here are sealed \
         for the one with fingerprint {needed}: put that key back"
    )]
    Foreign {
        /// Where it rests.
        place: Place,
        /// Its fingerprint.
        present: Fingerprint,
        /// The fingerprints that the records name.
        needed: String,
    },
}
