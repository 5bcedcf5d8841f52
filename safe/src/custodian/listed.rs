//! What an operator's list says of a key.

use time::OffsetDateTime;
use vsecm_safe_api::{
    name::SecretKey,
    position::Revision,
    state::{Format, Reason},
};

use crate::entry::Selected;
use crate::vault::Slot;

/// One line of an operator's list.
#[derive(Debug)]
pub struct Listed {
    /// The key.
    pub key: SecretKey,
    /// The write it stems from.
    pub revision: Revision,
    /// How it is to be shown.
    pub format: Format,
    /// When it was first registered.
    pub created: Option<OffsetDateTime>,
    /// When this value was registered.
    pub updated: Option<OffsetDateTime>,
    /// From when on it is served.
    pub not_before: Option<OffsetDateTime>,
    /// From when on it is not served any more.
    pub expires: Option<OffsetDateTime>,
    /// Bytes of the value.
    pub size: usize,
    /// Why workloads get no value now, if they get none.
    pub absent: Option<Reason>,
}

pub(super) fn listed(key: &SecretKey, slot: &Slot, now: OffsetDateTime) -> Option<Listed> {
    let Slot::Stored(entry) = slot else {
        return Some(Listed {
            key: key.clone(),
            revision: Revision::default(),
            format: Format::default(),
            created: None,
            updated: None,
            not_before: None,
            expires: None,
            size: 0,
            absent: Some(Reason::Unreadable),
        });
    };
    let (created, version) = entry.listed(now)?;
    let absent = match entry.select(now) {
        Selected::Current { .. } => None,
        Selected::Absent { reason, .. } => Some(reason),
    };
    Some(Listed {
        key: key.clone(),
        revision: version.revision,
        format: version.format,
        created: Some(created),
        updated: Some(version.updated),
        not_before: version.not_before,
        expires: version.expires,
        size: version.document.as_ref().map_or(0, |document| document.size()),
        absent,
    })
}
