//! One key's versions over time: which is served when.
//!
//! A put is the last word from its not-before on: until then the previous version is served, and
//! pending versions that were to start at the same time or later are replaced. So revisions only
//! ever grow for those who watch. When the current version expires, nothing older returns.

use std::{fmt, sync::Arc};

use time::OffsetDateTime;
use vsecm_safe_api::{
    position::{Digest, Revision},
    state::{Format, Reason},
    value::SecretValue,
};

/// Versions of one secret that wait for their not-before at most: each may hold 1 MiB.
const PENDING_LIMIT: usize = 10;

/// Why a put makes no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PutError {
    /// It would never be served.
    #[error("expires ({expires}) must be later than not-before and later than now")]
    NeverValid {
        /// As asked for.
        expires: OffsetDateTime,
    },
    /// Too many versions wait already.
    #[error("{PENDING_LIMIT} versions of this secret wait for their not-before already")]
    TooManyPending,
}

/// What an operator registers.
pub struct Draft {
    /// The value.
    pub document: SecretValue,
    /// How it is to be shown.
    pub format: Format,
    /// From when on it is served; at once, if unset.
    pub not_before: Option<OffsetDateTime>,
    /// From when on it is not served any more.
    pub expires: Option<OffsetDateTime>,
}

impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft").finish_non_exhaustive()
    }
}

/// One registered value.
#[derive(Clone)]
pub struct Version {
    /// The write that registered it.
    pub revision: Revision,
    /// How it is to be shown.
    pub format: Format,
    /// The value, until it expires.
    pub document: Option<Arc<SecretValue>>,
    /// When it was registered.
    pub updated: OffsetDateTime,
    /// From when on it is served.
    pub not_before: Option<OffsetDateTime>,
    /// From when on it is not served any more.
    pub expires: Option<OffsetDateTime>,
}

impl Version {
    fn has_started(&self, now: OffsetDateTime) -> bool {
        self.not_before.is_none_or(|start| start <= now)
    }

    fn is_over(&self, now: OffsetDateTime) -> bool {
        self.document.is_none() || self.expires.is_some_and(|end| end <= now)
    }

    /// What a watcher compares.
    pub fn digest(&self) -> Option<Digest> {
        let document = self.document.as_ref()?;
        Some(Digest::of(self.format, document.expose()))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Version")
            .field("revision", &self.revision)
            .field("not_before", &self.not_before)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// What is stored under one key.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A registered secret.
    Live {
        /// When it was first registered (since the last deletion).
        created: OffsetDateTime,
        /// The current version and the pending ones, in the order of their start, which is also
        /// that of their revisions.
        versions: Vec<Version>,
    },
    /// A tombstone.
    Deleted {
        /// The write that deleted it.
        revision: Revision,
        /// When.
        at: OffsetDateTime,
    },
}

/// What a workload gets.
#[expect(missing_debug_implementations, reason = "it leads to a value")]
pub enum Selected<'a> {
    /// This version.
    Current {
        /// When the secret was first registered.
        created: OffsetDateTime,
        /// The version.
        version: &'a Version,
        /// Its value.
        document: &'a Arc<SecretValue>,
    },
    /// Nothing.
    Absent {
        /// Why.
        reason: Reason,
        /// Since when, or from when on there will be something.
        at: Option<OffsetDateTime>,
    },
}

impl Entry {
    /// The entry after a put.
    pub fn put(
        previous: Option<&Self>,
        draft: Draft,
        revision: Revision,
        now: OffsetDateTime,
    ) -> Result<Self, PutError> {
        let Draft { document, format, not_before, expires } = draft;
        if let Some(expires) = expires
            && (expires <= now || not_before.is_some_and(|start| expires <= start))
        {
            return Err(PutError::NeverValid { expires });
        }
        let (created, mut versions) = match previous {
            Some(Self::Live { created, versions }) => (*created, versions.clone()),
            Some(Self::Deleted { .. }) | None => (now, Vec::new()),
        };
        // None, "always", sorts before every time
        versions.retain(|version| version.not_before < not_before);
        versions.push(Version {
            revision,
            format,
            document: Some(Arc::new(document)),
            updated: now,
            not_before,
            expires,
        });
        prune(&mut versions, now);
        let entry = Self::Live { created, versions };
        if entry.pending(now) > PENDING_LIMIT {
            return Err(PutError::TooManyPending);
        }
        Ok(entry)
    }

    /// How many versions wait for their not-before.
    pub fn pending(&self, now: OffsetDateTime) -> usize {
        match self {
            Self::Live { versions, .. } => versions.iter().filter(|v| !v.has_started(now)).count(),
            Self::Deleted { .. } => 0,
        }
    }

    /// The newest write in it.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Live { versions, .. } => versions.last().map(|v| v.revision).unwrap_or_default(),
            Self::Deleted { revision, .. } => *revision,
        }
    }

    /// What a workload gets now.
    pub fn select(&self, now: OffsetDateTime) -> Selected<'_> {
        let (created, versions) = match self {
            Self::Live { created, versions } => (*created, versions),
            Self::Deleted { at, .. } => {
                return Selected::Absent { reason: Reason::Deleted, at: Some(*at) };
            }
        };
        let Some(version) = versions.iter().rfind(|v| v.has_started(now)) else {
            return Selected::Absent {
                reason: Reason::NotYetValid,
                at: versions.first().and_then(|v| v.not_before),
            };
        };
        match &version.document {
            Some(document) if !version.is_over(now) => {
                Selected::Current { created, version, document }
            }
            _over => Selected::Absent { reason: Reason::Expired, at: version.expires },
        }
    }

    /// The version that an operator's list shows: the current one, else the next.
    pub fn listed(&self, now: OffsetDateTime) -> Option<(OffsetDateTime, &Version)> {
        let Self::Live { created, versions } = self else {
            return None;
        };
        let current = versions.iter().rfind(|v| v.has_started(now));
        Some((*created, current.or(versions.first())?))
    }

    /// When the selection changes next.
    pub fn next_event(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let Self::Live { versions, .. } = self else {
            return None;
        };
        let starts = versions.iter().filter_map(|v| v.not_before);
        let ends = versions.iter().filter_map(|v| v.expires);
        starts.chain(ends).filter(|at| *at > now).min()
    }
}

/// Forgets versions that were superseded, and the value of one that expired.
pub(crate) fn prune(versions: &mut Vec<Version>, now: OffsetDateTime) {
    if let Some(current) = versions.iter().rposition(|v| v.has_started(now)) {
        versions.drain(..current);
        if let Some(version) = versions.first_mut().filter(|v| v.is_over(now)) {
            version.document = None;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(second).unwrap()
    }

    pub(crate) fn draft(value: u8, start: Option<i64>, end: Option<i64>) -> Draft {
        Draft {
            document: SecretValue::new(vec![value]).unwrap(),
            format: Format::Raw,
            not_before: start.map(at),
            expires: end.map(at),
        }
    }

    pub(crate) fn put(
        previous: Option<&Entry>,
        revision: u64,
        start: Option<i64>,
        end: Option<i64>,
        now: i64,
    ) -> Entry {
        let value = u8::try_from(revision).unwrap();
        Entry::put(previous, draft(value, start, end), Revision(revision), at(now)).unwrap()
    }

    pub(crate) fn served(entry: &Entry, now: i64) -> Result<u64, Reason> {
        match entry.select(at(now)) {
            Selected::Current { version, .. } => Ok(version.revision.0),
            Selected::Absent { reason, .. } => Err(reason),
        }
    }

    #[test]
    fn a_version_is_served_from_its_not_before_on_and_the_previous_one_until_then() {
        let first = put(None, 1, None, None, 100);
        let both = put(Some(&first), 2, Some(200), None, 110);
        assert_eq!(served(&both, 199), Ok(1));
        assert_eq!(served(&both, 200), Ok(2));
        assert_eq!(both.next_event(at(110)), Some(at(200)));
        assert_eq!(both.next_event(at(200)), None);
    }

    #[test]
    fn nothing_older_returns_after_an_expiry() {
        let first = put(None, 1, None, None, 100);
        let both = put(Some(&first), 2, None, Some(200), 110);
        assert_eq!(served(&both, 199), Ok(2));
        assert_eq!(served(&both, 200), Err(Reason::Expired));
        let pending = put(Some(&both), 3, Some(300), None, 250);
        assert_eq!(served(&pending, 250), Err(Reason::Expired));
        assert_eq!(served(&pending, 300), Ok(3));
    }

    #[test]
    fn a_secret_for_later_is_not_yet_valid() {
        let entry = put(None, 1, Some(200), Some(300), 100);
        assert_eq!(served(&entry, 100), Err(Reason::NotYetValid));
        assert!(matches!(
            entry.select(at(100)),
            Selected::Absent { at: Some(when), .. } if when == at(200)
        ));
        assert_eq!(served(&entry, 200), Ok(1));
        assert_eq!(served(&entry, 300), Err(Reason::Expired));
    }

    #[test]
    fn a_put_is_the_last_word_from_its_start_on() {
        let first = put(None, 1, None, None, 100);
        let pending = put(Some(&first), 2, Some(200), None, 110);
        let fixed = put(Some(&pending), 3, None, None, 120);
        assert_eq!(served(&fixed, 120), Ok(3));
        assert_eq!(served(&fixed, 200), Ok(3));
    }

    #[test]
    fn created_is_kept_over_puts_and_starts_anew_after_a_deletion() {
        let first = put(None, 1, None, None, 100);
        let second = put(Some(&first), 2, None, None, 110);
        assert!(matches!(second, Entry::Live { created, .. } if created == at(100)));
        let tombstone = Entry::Deleted { revision: Revision(3), at: at(120) };
        assert_eq!(served(&tombstone, 120), Err(Reason::Deleted));
        let again = put(Some(&tombstone), 4, None, None, 130);
        assert!(matches!(again, Entry::Live { created, .. } if created == at(130)));
    }

    #[test]
    fn a_put_that_would_never_be_served_is_refused() {
        for (start, end) in [(None, 100), (None, 99), (Some(200), 200), (Some(200), 150)] {
            let refusal = Entry::put(None, draft(1, start, Some(end)), Revision(1), at(100));
            assert!(matches!(refusal, Err(PutError::NeverValid { .. })));
        }
    }

    #[test]
    fn pending_versions_are_bounded() {
        let mut entry = put(None, 1, None, None, 0);
        for n in 2..=11 {
            entry = put(Some(&entry), n, Some(100 + i64::try_from(n).unwrap()), None, 0);
        }
        let one_more = Entry::put(Some(&entry), draft(1, Some(900), None), Revision(12), at(0));
        assert_eq!(one_more.err(), Some(PutError::TooManyPending));
    }

    proptest! {
        #[test]
        fn the_selection_changes_only_at_the_announced_time(
            start in proptest::option::of(-5..50_i64),
            end in proptest::option::of(1..100_i64),
            probe in 0..120_i64,
        ) {
            let first = put(None, 1, None, None, 0);
            let Ok(entry) = Entry::put(Some(&first), draft(2, start, end), Revision(2), at(0)) else {
                return Ok(());
            };
            let event = entry.next_event(at(0)).map_or(i64::MAX, OffsetDateTime::unix_timestamp);
            if probe < event {
                prop_assert_eq!(served(&entry, probe), served(&entry, 0));
            }
        }
    }
}
