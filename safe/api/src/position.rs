//! A place in the history of one store.

use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256};

use crate::state::{Absent, Format};

/// Why a position is not understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PositionError {
    /// A lineage is 32 hex digits.
    #[error("a store's lineage is 32 lower-case hex digits")]
    Lineage,
    /// A digest is 32 bytes, or none where there is no content.
    #[error("a digest has 32 bytes, not {0}")]
    Digest(usize),
}

/// The random id of one store: revisions of different stores cannot be compared.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Lineage(String);

impl Lineage {
    /// From 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(format!("{:032x}", u128::from_be_bytes(bytes)))
    }

    /// 32 lower-case hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Lineage {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 32 || !text.bytes().all(digit) {
            return Err(PositionError::Lineage);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Counts the writes to a store, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// SHA-256 over the format and the document of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of a content.
    pub fn of(format: Format, document: &[u8]) -> Self {
        let tag: &[u8] = match format {
            Format::Json => b"json\0",
            Format::Raw => b"raw\0",
            Format::Yaml => b"yaml\0",
        };
        Self(Sha256::new().chain_update(tag).chain_update(document).finalize().into())
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl TryFrom<&[u8]> for Digest {
    type Error = PositionError;

    fn try_from(bytes: &[u8]) -> Result<Self, PositionError> {
        let length = bytes.len();
        let digest = bytes.try_into().map_err(|_length| PositionError::Digest(length))?;
        Ok(Self(digest))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // a digest of a short value tells the value
        f.write_str("Digest(redacted)")
    }
}

/// Which content a watcher has. Two positions are the same content only if all three agree.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The store.
    pub lineage: Lineage,
    /// The write.
    pub revision: Revision,
    /// What was written.
    pub digest: Digest,
}

/// What was sent to a watcher, and what a pod shows: a content, or that there is none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shown {
    /// The store.
    pub lineage: Lineage,
    /// The write; of an absence, the store's revision when it was said.
    pub revision: Revision,
    /// Of the content; none of an absence.
    pub digest: Option<Digest>,
}

impl From<&Position> for Shown {
    fn from(position: &Position) -> Self {
        let Position { lineage, revision, digest } = position;
        Self { lineage: lineage.clone(), revision: *revision, digest: Some(*digest) }
    }
}

impl From<&Absent> for Shown {
    fn from(absent: &Absent) -> Self {
        Self { lineage: absent.lineage.clone(), revision: absent.revision, digest: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lineage_is_32_hex_digits() {
        let lineage = Lineage::from_random([0xab; 16]);
        assert_eq!(lineage.as_str(), "ab".repeat(16));
        assert_eq!(lineage.as_str().parse(), Ok(lineage.clone()));
        assert!("AB".repeat(16).parse::<Lineage>().is_err());
        assert!("".parse::<Lineage>().is_err());
    }

    #[test]
    fn format_and_document_both_make_the_digest() {
        let json = Digest::of(Format::Json, b"1");
        assert_ne!(json, Digest::of(Format::Raw, b"1"));
        assert_ne!(json, Digest::of(Format::Json, b"2"));
        assert_eq!(format!("{json:?}"), "Digest(redacted)");
    }
}
