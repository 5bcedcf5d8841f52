//! A snapshot as it lies in its memfd: a line of JSON, then the document.

use std::{
    os::fd::OwnedFd,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use vsecm_safe_api::{
    name::SecretKey,
    position::{Digest, Lineage, Position, Revision},
    state::Format,
    value::VALUE_LIMIT,
};

use super::{Content, Document, Removal, SnapshotError, SnapshotKey};
use crate::{mapping::Mapping, memfd};

/// The first line of the memfd. It holds no secret. Of another version's line what is known here is
/// read: an upgrade, or the way back, must not lose content.
#[derive(Serialize, Deserialize)]
struct Header {
    trust_domain: String,
    namespace: String,
    name: String,
    sequence: u64,
    nanoseconds: u64,
    lineage: String,
    revision: u64,
    removal: Option<Removal>,
    format: Option<String>,
    /// Nanoseconds since 1970; not there where there is no end, as with predecessors that knew none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
}

/// Bytes of the header at most: names have bounds, the longest JSON is far below.
const HEADER_LIMIT: usize = 8 * 1024;

/// What a memfd says.
pub(super) struct Read {
    pub(super) key: SnapshotKey,
    pub(super) content: Content,
    pub(super) time: SystemTime,
    pub(super) sequence: u64,
}

/// Bytes of a memfd at most.
pub(super) const LIMIT: usize = HEADER_LIMIT + VALUE_LIMIT;

/// Writes a sealed memfd, whose document begins behind so many bytes.
pub(super) fn write(
    key: &SnapshotKey,
    content: &Content,
    time: SystemTime,
    sequence: u64,
) -> Result<(OwnedFd, usize), SnapshotError> {
    let header = Header::of(key, content, time, sequence);
    let mut line = serde_json::to_vec(&header)
        .map_err(|_json| SnapshotError::Malformed("its header cannot be written"))?;
    line.push(b'\n');
    Ok((memfd::sealed(&[&line, content.document()])?, line.len()))
}

/// Reads a sealed memfd.
pub(super) fn read(memfd: &OwnedFd) -> Result<Read, SnapshotError> {
    let (header, document) = parts(memfd)?;
    let bad = SnapshotError::Malformed;
    let secret = SecretKey::parse(&header.namespace, &header.name)
        .map_err(|_name| bad("the key is not one"))?;
    let lineage: Lineage =
        header.lineage.parse().map_err(|_lineage| bad("the lineage is not one"))?;
    let revision = Revision(header.revision);
    let content = match (header.removal, header.format.as_deref().map(parse_format)) {
        (Some(removal), None) => Content::Removed { removal, lineage, revision },
        (None, Some(Some(format))) => Content::Document {
            position: Position { lineage, revision, digest: Digest::of(format, document.expose()) },
            format,
            document: Some(document)
                .filter(|document| (1..=VALUE_LIMIT).contains(&document.expose().len()))
                .ok_or_else(|| bad("no document"))?,
            expires: header.expires.map(time),
        },
        _ => return Err(bad("neither a document nor a removal")),
    };
    Ok(Read {
        key: SnapshotKey { trust_domain: header.trust_domain, secret },
        content,
        time: time(header.nanoseconds),
        sequence: header.sequence,
    })
}

impl Header {
    fn of(key: &SnapshotKey, content: &Content, time: SystemTime, sequence: u64) -> Self {
        let (removal, format, expires) = match content {
            Content::Document { format, expires, .. } => {
                (None, Some(format_name(*format).to_owned()), *expires)
            }
            Content::Removed { removal, .. } => (Some(*removal), None, None),
        };
        Self {
            trust_domain: key.trust_domain.clone(),
            namespace: key.secret.namespace.to_string(),
            name: key.secret.name.to_string(),
            sequence,
            nanoseconds: nanoseconds(time),
            lineage: content.lineage().to_string(),
            revision: content.revision().0,
            removal,
            format,
            expires: expires.map(nanoseconds),
        }
    }
}

/// Since 1970, up to the year 2554.
pub(crate) fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The moment so long after 1970.
pub(crate) fn time(nanoseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds)
}

fn format_name(format: Format) -> &'static str {
    match format {
        Format::Json => "json",
        Format::Raw => "raw",
        Format::Yaml => "yaml",
    }
}

fn parse_format(name: &str) -> Option<Format> {
    match name {
        "json" => Some(Format::Json),
        "raw" => Some(Format::Raw),
        "yaml" => Some(Format::Yaml),
        _ => None,
    }
}

fn parts(memfd: &OwnedFd) -> Result<(Header, Document), SnapshotError> {
    let mapping = Mapping::of(memfd, LIMIT)?;
    let end = mapping
        .bytes()
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or(SnapshotError::Malformed("it has no header"))?;
    let header = serde_json::from_slice(mapping.bytes().get(..end).unwrap_or_default())
        .map_err(|_json| SnapshotError::Malformed("its header is not understood"))?;
    Ok((header, Document::Kept { mapping, header: end + 1 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(line: &str) -> Read {
        read(&memfd::sealed(&[line.as_bytes(), b"\n{}"]).unwrap()).unwrap()
    }

    const OLD: &str = r#"{"trust_domain":"vsecm.com","namespace":"default","name":"billing",
        "sequence":9,"nanoseconds":5,"lineage":"07070707070707070707070707070707","revision":3,
        "removal":null,"format":"json"}"#;

    #[test]
    fn what_a_predecessor_without_ends_wrote_is_understood() {
        let Read { content, sequence, .. } = load(&OLD.replace('\n', ""));
        assert!(matches!(content, Content::Document { expires: None, .. }));
        assert_eq!(sequence, 9);
    }

    #[test]
    fn what_a_successor_wrote_is_understood_as_far_as_it_is_known() {
        let newer =
            OLD.replace('\n', "").replace(":9,", ":9,\"expires\":7,\"unheard\":{\"of\":1},");
        let Content::Document { expires, .. } = load(&newer).content else {
            panic!("a document was written");
        };
        assert_eq!(expires, Some(time(7)));
    }
}
