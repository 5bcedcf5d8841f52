//! What is to be done about the root key, from what rests where. Pure.

use std::fmt;

use crate::seal::{Place, RootKey, RootKeyError, StoredRecords, foreign, is_blank, lost};

/// What one place holds.
pub(super) enum Content {
    Missing,
    /// As a tool leaves it that makes the Secret for Safe to fill in.
    Blank,
    Key(RootKey),
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Blank => "blank",
            Self::Key(_) => "a key",
        })
    }
}

impl Content {
    pub(super) fn read(place: &Place, text: Option<&str>) -> Result<Self, RootKeyError> {
        match text {
            None => Ok(Self::Missing),
            Some(text) if is_blank(text) => Ok(Self::Blank),
            Some(text) => RootKey::parse(place, text).map(Self::Key),
        }
    }
}

/// What to do next.
#[derive(Debug)]
pub(super) enum Step {
    Use(RootKey),
    /// The mount has none: the Secret itself may, as the kubelet follows it a minute later.
    AskSecret,
    /// A first start.
    Create,
    /// A first start, beside a Secret without content.
    Fill,
}

/// `secret` is what `place` holds, once it was asked. A key is made only where there are no
/// records, and never instead of another.
///
/// Without records the mount does not count: it may be that of a Secret that was deleted or
/// replaced a moment ago, and with the pod the key of the first records would be gone.
pub(super) fn decide(
    mount: Content,
    secret: Option<Content>,
    place: &Place,
    records: &StoredRecords,
) -> Result<Step, RootKeyError> {
    let mount = if *records == StoredRecords::None { Content::Missing } else { mount };
    let (state, step) = match (mount, secret) {
        (Content::Key(key), _) | (_, Some(Content::Key(key))) => {
            let wrong = foreign(place, &key, records);
            return wrong.map_or(Ok(Step::Use(key)), Err);
        }
        (_, None) => return Ok(Step::AskSecret),
        (_, Some(Content::Missing)) => ("missing", Step::Create),
        (_, Some(Content::Blank)) => ("blank", Step::Fill),
    };
    match records {
        StoredRecords::None => Ok(step),
        StoredRecords::SealedFor(fingerprints) => Err(lost(place, state, fingerprints)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place::Secret { namespace: "vsecm-system".into(), name: "vsecm-root-key".into() }
    }

    fn content(text: Option<&str>) -> Content {
        Content::read(&place(), text).unwrap()
    }

    #[test]
    fn a_key_is_made_only_where_neither_place_has_one_and_there_are_no_records() {
        let key = RootKey::generate().unwrap();
        let text = key.serialize();
        let beside = StoredRecords::SealedFor([key.fingerprint().clone()].into());
        let key = Some(text.as_str());
        // mount, Secret once asked, records, outcome
        let table = [
            (key, None, true, "use"),
            (key, Some(None), true, "use"),
            (key, None, false, "ask"),
            (key, Some(None), false, "create"),
            (key, Some(Some("")), false, "fill"),
            (None, None, true, "ask"),
            (Some("{}"), None, false, "ask"),
            (None, Some(key), true, "use"),
            (Some(" \n"), Some(key), false, "use"),
            (None, Some(None), false, "create"),
            (None, Some(key), false, "use"),
            (Some(""), Some(None), false, "create"),
            (None, Some(Some("")), false, "fill"),
            (None, Some(Some("{}")), false, "fill"),
            (None, Some(None), true, "lost"),
            (None, Some(Some("")), true, "lost"),
            (Some(""), Some(Some("{}\n")), true, "lost"),
        ];
        for (mount, secret, has_records, expected) in table {
            let records = if has_records { &beside } else { &StoredRecords::None };
            let step = decide(content(mount), secret.map(content), &place(), records);
            let outcome = match &step {
                Ok(Step::Use(_)) => "use",
                Ok(Step::AskSecret) => "ask",
                Ok(Step::Create) => "create",
                Ok(Step::Fill) => "fill",
                Err(RootKeyError::Lost { .. }) => "lost",
                Err(_) => "another error",
            };
            assert_eq!(outcome, expected, "{:?} {has_records}", mount.is_some());
        }
    }

    #[test]
    fn a_key_that_no_record_was_sealed_for_is_not_used() {
        let (key, other) = (RootKey::generate().unwrap(), RootKey::generate().unwrap());
        let ours = key.serialize();
        let decide = |fingerprints: &[&RootKey]| {
            let fingerprints = fingerprints.iter().map(|key| key.fingerprint().clone()).collect();
            let records = StoredRecords::SealedFor(fingerprints);
            decide(content(None), Some(content(Some(&ours))), &place(), &records)
        };
        let refusal = decide(&[&other]).unwrap_err().to_string();
        for fingerprint in [key.fingerprint(), other.fingerprint()] {
            assert!(refusal.contains(&fingerprint.to_string()), "{refusal}");
        }
        assert!(matches!(decide(&[&key, &other]), Ok(Step::Use(_))), "some open");
        assert!(matches!(decide(&[]), Ok(Step::Use(_))), "no header can be read");
    }

    #[test]
    fn a_malformed_secret_is_named_with_the_line_and_without_content() {
        let text = RootKey::generate().unwrap().serialize();
        let identity = text.lines().next().unwrap();
        let bad = format!("{identity}\nage1wrong\n00\n");
        let error = Content::read(&place(), Some(&bad)).unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(said.contains("vsecm-system/vsecm-root-key") && said.contains("second line"));
        assert!(!said.contains(identity));
    }
}
