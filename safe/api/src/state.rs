//! What a workload hears about its secret.

use std::fmt;

use time::OffsetDateTime;

use crate::{
    position::{Lineage, Position, Revision},
    value::SecretValue,
};

/// How a document is to be shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// A JSON object becomes one file per key; anything else stays one document.
    #[default]
    Json,
    /// One document, whatever it is.
    Raw,
    /// As JSON, written as YAML.
    Yaml,
}

/// A secret's content at one position.
pub struct Snapshot {
    /// Where in the store's history.
    pub position: Position,
    /// The bytes as the operator registered them.
    pub document: SecretValue,
    /// How they are to be shown.
    pub format: Format,
    /// When the secret was first registered.
    pub created: OffsetDateTime,
    /// When this content was registered.
    pub updated: OffsetDateTime,
    /// When it must no longer be shown.
    pub expires: Option<OffsetDateTime>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("position", &self.position)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

/// Why there is no content. "Not there", "deleted" and "cannot read" are different answers ([I2]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Nobody has registered it.
    NotRegistered,
    /// An operator deleted it.
    Deleted,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// Safe holds a record of it that it cannot read.
    Unreadable,
}

/// There is no content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    /// Why.
    pub reason: Reason,
    /// When it was deleted or expired, or when it will be valid.
    pub at: Option<OffsetDateTime>,
    /// The store that says so.
    pub lineage: Lineage,
    /// The store's revision then.
    pub revision: Revision,
}

/// A secret's content, or why there is none.
#[derive(Debug)]
pub enum State {
    /// There is content.
    Present(Snapshot),
    /// There is none.
    Absent(Absent),
}
