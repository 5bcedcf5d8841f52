//! The one place where generated types meet ours: `TryFrom` in, `From` out.

use std::time::SystemTime;

use time::OffsetDateTime;

use crate::{
    name::{NameError, SecretKey},
    position::{Digest, Lineage, Position, PositionError, Revision, Shown},
    proto,
    state::{Absent, Format, Reason, Snapshot, State},
    value::{SecretValue, ValueError},
};

/// Why a message is not understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum WireError {
    /// A field that must be there is not.
    #[error("the message has no {0}")]
    Missing(&'static str),
    /// A number stands for nothing that is known here.
    #[error("{field} {number} is not known")]
    Unknown {
        /// The field.
        field: &'static str,
        /// The number.
        number: i32,
    },
    /// A time is outside the years 0000 to 9999.
    #[error("a time is out of range")]
    Time,
    /// The digest is not that of the document.
    #[error("the document does not have the digest that came with it")]
    Corrupt,
    /// A name is not allowed.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A value is not allowed.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// A position is not understood.
    #[error(transparent)]
    Position(#[from] PositionError),
}

/// A time for the wire.
pub fn timestamp(time: OffsetDateTime) -> prost_types::Timestamp {
    SystemTime::from(time).into()
}

/// A time from the wire.
///
/// # Errors
/// [`WireError::Time`].
pub fn time(stamp: &prost_types::Timestamp) -> Result<OffsetDateTime, WireError> {
    let nanoseconds = i64::from(stamp.nanos);
    let whole =
        OffsetDateTime::from_unix_timestamp(stamp.seconds).map_err(|_range| WireError::Time)?;
    whole.checked_add(::time::Duration::nanoseconds(nanoseconds)).ok_or(WireError::Time)
}

fn optional(stamp: Option<&prost_types::Timestamp>) -> Result<Option<OffsetDateTime>, WireError> {
    stamp.map(time).transpose()
}

impl From<&SecretKey> for proto::SecretKey {
    fn from(key: &SecretKey) -> Self {
        Self { namespace: key.namespace.to_string(), name: key.name.to_string() }
    }
}

impl TryFrom<&proto::SecretKey> for SecretKey {
    type Error = WireError;

    fn try_from(key: &proto::SecretKey) -> Result<Self, WireError> {
        Ok(Self::parse(&key.namespace, &key.name)?)
    }
}

impl From<&Position> for proto::Position {
    fn from(position: &Position) -> Self {
        Self {
            lineage: position.lineage.to_string(),
            revision: position.revision.0,
            digest: position.digest.as_bytes().to_vec(),
        }
    }
}

impl TryFrom<&proto::Position> for Position {
    type Error = WireError;

    fn try_from(position: &proto::Position) -> Result<Self, WireError> {
        Ok(Self {
            lineage: position.lineage.parse()?,
            revision: Revision(position.revision),
            digest: Digest::try_from(position.digest.as_slice())?,
        })
    }
}

impl From<&Shown> for proto::Position {
    fn from(shown: &Shown) -> Self {
        Self {
            lineage: shown.lineage.to_string(),
            revision: shown.revision.0,
            digest: shown.digest.map(|digest| digest.as_bytes().to_vec()).unwrap_or_default(),
        }
    }
}

impl TryFrom<&proto::Position> for Shown {
    type Error = WireError;

    fn try_from(position: &proto::Position) -> Result<Self, WireError> {
        let digest = match position.digest.as_slice() {
            [] => None,
            bytes => Some(Digest::try_from(bytes)?),
        };
        let lineage = position.lineage.parse()?;
        Ok(Self { lineage, revision: Revision(position.revision), digest })
    }
}

impl From<Format> for proto::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::Json => Self::Json,
            Format::Raw => Self::Raw,
            Format::Yaml => Self::Yaml,
        }
    }
}

/// A format from the wire; an unspecified one is JSON.
///
/// # Errors
/// [`WireError::Unknown`].
pub fn format(number: i32) -> Result<Format, WireError> {
    match proto::Format::try_from(number) {
        Ok(proto::Format::Unspecified | proto::Format::Json) => Ok(Format::Json),
        Ok(proto::Format::Raw) => Ok(Format::Raw),
        Ok(proto::Format::Yaml) => Ok(Format::Yaml),
        Err(_unknown) => Err(WireError::Unknown { field: "format", number }),
    }
}

impl From<Reason> for proto::Reason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::NotRegistered => Self::NotRegistered,
            Reason::Deleted => Self::Deleted,
            Reason::Expired => Self::Expired,
            Reason::NotYetValid => Self::NotYetValid,
            Reason::Unreadable => Self::Unreadable,
        }
    }
}

/// A reason from the wire; `None` where it is unspecified.
///
/// # Errors
/// [`WireError::Unknown`]: a reason that is not known must never be taken for a deletion.
pub fn reason(number: i32) -> Result<Option<Reason>, WireError> {
    match proto::Reason::try_from(number) {
        Ok(proto::Reason::Unspecified) => Ok(None),
        Ok(proto::Reason::NotRegistered) => Ok(Some(Reason::NotRegistered)),
        Ok(proto::Reason::Deleted) => Ok(Some(Reason::Deleted)),
        Ok(proto::Reason::Expired) => Ok(Some(Reason::Expired)),
        Ok(proto::Reason::NotYetValid) => Ok(Some(Reason::NotYetValid)),
        Ok(proto::Reason::Unreadable) => Ok(Some(Reason::Unreadable)),
        Err(_unknown) => Err(WireError::Unknown { field: "reason", number }),
    }
}

impl From<&Snapshot> for proto::Snapshot {
    /// Copies the document: for the one frame that all watchers share.
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            position: Some((&snapshot.position).into()),
            document: snapshot.document.expose().to_vec(),
            format: proto::Format::from(snapshot.format).into(),
            created: Some(timestamp(snapshot.created)),
            updated: Some(timestamp(snapshot.updated)),
            expires: snapshot.expires.map(timestamp),
        }
    }
}

impl TryFrom<proto::Snapshot> for Snapshot {
    type Error = WireError;

    fn try_from(snapshot: proto::Snapshot) -> Result<Self, WireError> {
        let document = SecretValue::new(snapshot.document)?;
        let position: Position =
            snapshot.position.as_ref().ok_or(WireError::Missing("position"))?.try_into()?;
        let format = format(snapshot.format)?;
        if Digest::of(format, document.expose()) != position.digest {
            return Err(WireError::Corrupt);
        }
        let created = snapshot.created.as_ref().ok_or(WireError::Missing("created"))?;
        let updated = snapshot.updated.as_ref().ok_or(WireError::Missing("updated"))?;
        Ok(Self {
            position,
            document,
            format,
            created: time(created)?,
            updated: time(updated)?,
            expires: optional(snapshot.expires.as_ref())?,
        })
    }
}

impl From<&Absent> for proto::Absent {
    fn from(absent: &Absent) -> Self {
        Self {
            reason: proto::Reason::from(absent.reason).into(),
            at: absent.at.map(timestamp),
            position: Some(proto::Position {
                lineage: absent.lineage.to_string(),
                revision: absent.revision.0,
                digest: Vec::new(),
            }),
        }
    }
}

impl TryFrom<&proto::Absent> for Absent {
    type Error = WireError;

    fn try_from(absent: &proto::Absent) -> Result<Self, WireError> {
        let position = absent.position.as_ref().ok_or(WireError::Missing("position"))?;
        let reason = reason(absent.reason)?.ok_or(WireError::Missing("reason"))?;
        let lineage: Lineage = position.lineage.parse()?;
        Ok(Self {
            reason,
            at: optional(absent.at.as_ref())?,
            lineage,
            revision: Revision(position.revision),
        })
    }
}

impl From<&State> for proto::State {
    fn from(state: &State) -> Self {
        let state = match state {
            State::Present(snapshot) => proto::state::State::Snapshot(snapshot.into()),
            State::Absent(absent) => proto::state::State::Absent(absent.into()),
        };
        Self { state: Some(state) }
    }
}

impl TryFrom<Option<proto::State>> for State {
    type Error = WireError;

    fn try_from(state: Option<proto::State>) -> Result<Self, WireError> {
        match state.and_then(|state| state.state) {
            Some(proto::state::State::Snapshot(snapshot)) => {
                Ok(Self::Present(snapshot.try_into()?))
            }
            Some(proto::state::State::Absent(absent)) => Ok(Self::Absent((&absent).try_into()?)),
            None => Err(WireError::Missing("state")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let document = SecretValue::new(b"{\"a\":1}".to_vec()).unwrap();
        let now = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        Snapshot {
            position: Position {
                lineage: Lineage::from_random([7; 16]),
                revision: Revision(3),
                digest: Digest::of(Format::Json, document.expose()),
            },
            document,
            format: Format::Json,
            created: now,
            updated: now,
            expires: Some(now + ::time::Duration::milliseconds(1500)),
        }
    }

    #[test]
    fn a_snapshot_survives_the_wire() {
        let there = State::Present(snapshot());
        let State::Present(back) = State::try_from(Some(proto::State::from(&there))).unwrap()
        else {
            panic!("a snapshot came back as an absence")
        };
        assert_eq!(back.position, snapshot().position);
        assert_eq!(back.expires, snapshot().expires);
        assert_eq!(back.document.expose(), snapshot().document.expose());
    }

    #[test]
    fn what_a_pod_shows_comes_back_with_and_without_content() {
        let content = Shown::from(&snapshot().position);
        for shown in [Shown { digest: None, ..content.clone() }, content] {
            assert_eq!(Shown::try_from(&proto::Position::from(&shown)), Ok(shown));
        }
    }

    #[test]
    fn a_changed_document_is_refused() {
        let mut wire = proto::Snapshot::from(&snapshot());
        wire.document.push(b' ');
        assert_eq!(Snapshot::try_from(wire).err(), Some(WireError::Corrupt));
    }

    #[test]
    fn an_unknown_reason_is_an_error_and_no_deletion() {
        let absent = proto::Absent {
            reason: 99,
            at: None,
            position: Some(proto::Position {
                lineage: "0".repeat(32),
                revision: 1,
                digest: vec![],
            }),
        };
        assert!(matches!(Absent::try_from(&absent), Err(WireError::Unknown { .. })));
    }
}
