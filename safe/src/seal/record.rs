//! The inside of a sealed record: an unambiguous encoding and an HMAC over all of it.
//!
//! Numbers are big-endian; texts and values carry their length. The HMAC is checked before
//! anything is read, since the recipient under which a record is sealed is public.

use std::sync::Arc;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use time::OffsetDateTime;
use vsecm_safe_api::{name::SecretKey, position::Revision, state::Format, value::SecretValue};
use zeroize::Zeroizing;

use crate::entry::{Entry, Version};

/// Purpose and version of the encoding ([I11]).
const MAGIC: &[u8] = b"vsecm safe record 1\n";
const MAC_BYTES: usize = 32;

/// Why the inside of a record is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// It was not written by a holder of the root key, or it was changed.
    #[error("its HMAC is not by this root key: it is forged or damaged")]
    Forged,
    /// It is of another purpose or of another version of Safe.
    #[error("it is no record of a version that this Safe knows")]
    Purpose,
    /// It cannot be understood although it is authentic.
    #[error("its {0} cannot be understood")]
    Malformed(&'static str),
}

pub(super) fn encode(key: &SecretKey, entry: &Entry, hmac: &[u8; 32]) -> Zeroizing<Vec<u8>> {
    // enough from the start: a growing buffer leaves copies behind
    let mut out = Zeroizing::new(Vec::with_capacity(capacity(entry)));
    out.extend_from_slice(MAGIC);
    text(&mut out, key.namespace.as_str().as_bytes());
    text(&mut out, key.name.as_str().as_bytes());
    match entry {
        Entry::Live { created, versions } => {
            out.push(0);
            moment(&mut out, *created);
            out.extend_from_slice(&length(versions.len()));
            for version in versions {
                write_version(&mut out, version);
            }
        }
        Entry::Deleted { revision, at } => {
            out.push(1);
            out.extend_from_slice(&revision.0.to_be_bytes());
            moment(&mut out, *at);
        }
    }
    let tag = mac(hmac, &out).finalize().into_bytes();
    out.extend_from_slice(&tag);
    out
}

pub(super) fn decode(bytes: &[u8], hmac: &[u8; 32]) -> Result<(SecretKey, Entry), DecodeError> {
    let at = bytes.len().checked_sub(MAC_BYTES).ok_or(DecodeError::Forged)?;
    let (body, tag) = bytes.split_at(at);
    mac(hmac, body).verify_slice(tag).map_err(|_mismatch| DecodeError::Forged)?;
    let rest = body.strip_prefix(MAGIC).ok_or(DecodeError::Purpose)?;
    let mut reader = Reader(rest);
    let key = reader.key()?;
    let entry = match reader.byte("kind")? {
        0 => {
            let created = reader.moment()?;
            let count = reader.length()?;
            let versions: Result<Vec<_>, _> = (0..count).map(|_| reader.version()).collect();
            Entry::Live { created, versions: versions? }
        }
        1 => Entry::Deleted { revision: reader.revision()?, at: reader.moment()? },
        _ => return Err(DecodeError::Malformed("kind")),
    };
    match reader.0 {
        [] => Ok((key, entry)),
        _more => Err(DecodeError::Malformed("end")),
    }
}

fn mac(key: &[u8; 32], body: &[u8]) -> Hmac<Sha256> {
    // a key of the block's size or shorter is used as it is: this cannot fail
    let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(key)
        .unwrap_or_else(|_never| unreachable!("HMAC takes keys of any length"));
    mac.update(body);
    mac
}

fn capacity(entry: &Entry) -> usize {
    // names, kind, times and HMAC of a record; revision, format, times and lengths of a version
    const RECORD: usize = 512;
    const VERSION: usize = 128;
    let values: usize = match entry {
        Entry::Live { versions, .. } => {
            versions.iter().map(|v| VERSION + v.document.as_ref().map_or(0, |d| d.size())).sum()
        }
        Entry::Deleted { .. } => 0,
    };
    RECORD + values
}

fn length(length: usize) -> [u8; 4] {
    // values have 1 MiB, texts and counts far less
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&length(bytes.len()));
    out.extend_from_slice(bytes);
}

fn moment(out: &mut Vec<u8>, time: OffsetDateTime) {
    out.extend_from_slice(&time.unix_timestamp().to_be_bytes());
    out.extend_from_slice(&time.nanosecond().to_be_bytes());
}

fn optional_moment(out: &mut Vec<u8>, time: Option<OffsetDateTime>) {
    out.push(time.is_some().into());
    if let Some(time) = time {
        moment(out, time);
    }
}

fn write_version(out: &mut Vec<u8>, version: &Version) {
    out.extend_from_slice(&version.revision.0.to_be_bytes());
    out.push(match version.format {
        Format::Json => 0,
        Format::Raw => 1,
        Format::Yaml => 2,
    });
    moment(out, version.updated);
    optional_moment(out, version.not_before);
    optional_moment(out, version.expires);
    out.push(version.document.is_some().into());
    if let Some(document) = &version.document {
        text(out, document.expose());
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(DecodeError::Malformed(what))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let bytes = self.take(N, what)?;
        bytes.try_into().map_err(|_length| DecodeError::Malformed(what))
    }

    fn byte(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array(what)?))
    }

    fn flag(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.byte(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Malformed(what)),
        }
    }

    fn length(&mut self) -> Result<usize, DecodeError> {
        let length = u32::from_be_bytes(self.array("length")?);
        usize::try_from(length).map_err(|_size| DecodeError::Malformed("length"))
    }

    fn text(&mut self, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let length = self.length()?;
        self.take(length, what)
    }

    fn key(&mut self) -> Result<SecretKey, DecodeError> {
        let malformed = |_cause| DecodeError::Malformed("key");
        let namespace = std::str::from_utf8(self.text("namespace")?).map_err(malformed)?;
        let name = std::str::from_utf8(self.text("name")?).map_err(malformed)?;
        SecretKey::parse(namespace, name).map_err(|_name| DecodeError::Malformed("key"))
    }

    fn revision(&mut self) -> Result<Revision, DecodeError> {
        Ok(Revision(u64::from_be_bytes(self.array("revision")?)))
    }

    fn moment(&mut self) -> Result<OffsetDateTime, DecodeError> {
        let seconds = i64::from_be_bytes(self.array("time")?);
        let nanoseconds = u32::from_be_bytes(self.array("time")?);
        OffsetDateTime::from_unix_timestamp(seconds)
            .and_then(|time| time.replace_nanosecond(nanoseconds))
            .map_err(|_range| DecodeError::Malformed("time"))
    }

    fn optional_moment(&mut self) -> Result<Option<OffsetDateTime>, DecodeError> {
        self.flag("time")?.then(|| self.moment()).transpose()
    }

    fn version(&mut self) -> Result<Version, DecodeError> {
        let revision = self.revision()?;
        let format = match self.byte("format")? {
            0 => Format::Json,
            1 => Format::Raw,
            2 => Format::Yaml,
            _ => return Err(DecodeError::Malformed("format")),
        };
        let updated = self.moment()?;
        let not_before = self.optional_moment()?;
        let expires = self.optional_moment()?;
        let document = if self.flag("value")? {
            let value = SecretValue::new(self.text("value")?.to_vec());
            let value = value.map_err(|_size| DecodeError::Malformed("value"))?;
            Some(Arc::new(value))
        } else {
            None
        };
        Ok(Version { revision, format, document, updated, not_before, expires })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::seal) fn any_key() -> impl Strategy<Value = SecretKey> {
        ("[a-z][a-z0-9]{0,20}", "(k8s:|raw:)?[A-Za-z0-9_-]{1,40}")
            .prop_map(|(namespace, name)| SecretKey::parse(&namespace, &name).unwrap())
    }

    fn any_moment() -> impl Strategy<Value = OffsetDateTime> {
        (0..253_402_300_799_i64, 0..1_000_000_000_u32).prop_map(|(s, n)| {
            OffsetDateTime::from_unix_timestamp(s).unwrap().replace_nanosecond(n).unwrap()
        })
    }

    fn any_version() -> impl Strategy<Value = Version> {
        (
            any::<u64>(),
            0..3_u8,
            proptest::option::of(proptest::collection::vec(any::<u8>(), 1..200)),
            any_moment(),
            proptest::option::of(any_moment()),
            proptest::option::of(any_moment()),
        )
            .prop_map(|(revision, format, document, updated, not_before, expires)| {
                Version {
                    revision: Revision(revision),
                    format: [Format::Json, Format::Raw, Format::Yaml][usize::from(format)],
                    document: document.map(|d| Arc::new(SecretValue::new(d).unwrap())),
                    updated,
                    not_before,
                    expires,
                }
            })
    }

    pub(in crate::seal) fn any_entry() -> impl Strategy<Value = Entry> {
        prop_oneof![
            (any_moment(), proptest::collection::vec(any_version(), 1..4))
                .prop_map(|(created, versions)| Entry::Live { created, versions }),
            (any::<u64>(), any_moment())
                .prop_map(|(r, at)| Entry::Deleted { revision: Revision(r), at }),
        ]
    }

    fn resealed(bytes: &[u8], hmac: &[u8; 32]) -> Vec<u8> {
        let body = &bytes[..bytes.len() - MAC_BYTES];
        let mut out = body.to_vec();
        out.extend_from_slice(&mac(hmac, body).finalize().into_bytes());
        out
    }

    proptest! {
        #[test]
        fn a_record_survives_its_encoding(key in any_key(), entry in any_entry()) {
            let bytes = encode(&key, &entry, &[7; 32]);
            prop_assert!(bytes.len() <= capacity(&entry) + 128, "the buffer must not grow");
            let (key_back, entry_back) = decode(&bytes, &[7; 32]).unwrap();
            prop_assert_eq!(&key_back, &key);
            prop_assert_eq!(encode(&key_back, &entry_back, &[7; 32]), bytes);
        }

        #[test]
        fn a_changed_or_foreign_record_is_refused(
            key in any_key(), entry in any_entry(), at in any::<prop::sample::Index>(), bit in 0..8_u8,
        ) {
            let bytes = encode(&key, &entry, &[7; 32]);
            prop_assert_eq!(decode(&bytes, &[8; 32]).err(), Some(DecodeError::Forged));
            let mut changed = bytes.to_vec();
            let at = at.index(changed.len());
            changed[at] ^= 1 << bit;
            prop_assert_eq!(decode(&changed, &[7; 32]).err(), Some(DecodeError::Forged));
            prop_assert_eq!(decode(&bytes[..at], &[7; 32]).err(), Some(DecodeError::Forged));
        }

        #[test]
        fn an_authentic_record_of_any_content_is_understood_or_refused(
            key in any_key(), entry in any_entry(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let mut bytes = encode(&key, &entry, &[7; 32]).to_vec();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _either = decode(&resealed(&bytes, &[7; 32]), &[7; 32]).is_ok();
            let shorter = &bytes[..at.max(MAC_BYTES)];
            prop_assert!(decode(&resealed(shorter, &[7; 32]), &[7; 32]).is_err());
        }
    }
}
