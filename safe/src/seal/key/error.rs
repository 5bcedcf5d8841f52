//! Why there is no root key.

use std::{io, path::PathBuf};

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
    /// The file does not hold a root key.
    #[error("the root key file {path} is not a root key: {rule}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is asked for.
        rule: &'static str,
    },
    /// Sealed records are there, their key is not.
    #[error(
        "the root key file {path} is {state}, but the store holds records sealed for the root key \
         with fingerprint {needed}: put that key back (a new one is never made beside records)"
    )]
    Lost {
        /// The file.
        path: PathBuf,
        /// `missing` or `blank`.
        state: &'static str,
        /// The fingerprints that the records name.
        needed: String,
    },
}
