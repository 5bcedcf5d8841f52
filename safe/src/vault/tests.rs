use proptest::prelude::*;

use vsecm_safe_api::{
    position::Revision,
    state::{Format, Reason},
    value::SecretValue,
};

use super::*;

fn at(second: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(second).unwrap()
}

fn draft(value: u8, start: Option<i64>, end: Option<i64>) -> Draft {
    Draft {
        document: SecretValue::new(vec![value]).unwrap(),
        format: Format::Raw,
        not_before: start.map(at),
        expires: end.map(at),
    }
}

fn put(
    previous: Option<&Entry>,
    revision: u64,
    start: Option<i64>,
    end: Option<i64>,
    now: i64,
) -> Entry {
    let value = u8::try_from(revision).unwrap();
    Entry::put(
        previous,
        draft(value, start, end),
        Revision(revision),
        at(now),
    )
    .unwrap()
}

fn served(entry: &Entry, now: i64) -> Result<u64, Reason> {
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
    let tombstone = Entry::Deleted {
        revision: Revision(3),
        at: at(120),
    };
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
        entry = put(
            Some(&entry),
            n,
            Some(100 + i64::try_from(n).unwrap()),
            None,
            0,
        );
    }
    let one_more = Entry::put(Some(&entry), draft(1, Some(900), None), Revision(12), at(0));
    assert_eq!(one_more.err(), Some(PutError::TooManyPending));
}

#[test]
fn an_expired_value_is_wiped_when_the_vault_wakes() {
    let key = SecretKey::parse("default", "db").unwrap();
    let mut vault = Vault::default();
    let entry = put(None, 1, None, Some(200), 100);
    vault.install(key.clone(), Slot::Stored(entry), at(100));
    assert_eq!(vault.next_event(), Some(at(200)));
    assert_eq!(vault.wake(at(199)), []);
    assert_eq!(vault.wake(at(200)), std::slice::from_ref(&key));
    assert_eq!(vault.next_event(), None);
    let Some(Slot::Stored(entry)) = vault.get(&key) else {
        panic!("the entry must stay")
    };
    assert_eq!(
        entry
            .listed(at(200))
            .unwrap()
            .1
            .document
            .as_ref()
            .map(|d| d.size()),
        None
    );
    assert_eq!(served(entry, 200), Err(Reason::Expired));
}

#[derive(Debug, Clone)]
enum Step {
    Put {
        start: Option<i64>,
        end: Option<i64>,
    },
    Delete,
    Wake,
}

fn step() -> impl Strategy<Value = (i64, Step)> {
    let offset = || proptest::option::of(-5..20_i64);
    let put = (offset(), offset()).prop_map(|(start, end)| Step::Put { start, end });
    (
        0..8_i64,
        prop_oneof![4 => put, 1 => Just(Step::Delete), 2 => Just(Step::Wake)],
    )
}

proptest! {
    #[test]
    fn what_is_served_is_valid_and_its_revision_never_falls(
        steps in proptest::collection::vec(step(), 1..30)
    ) {
        let key = SecretKey::parse("default", "db").unwrap();
        let mut vault = Vault::default();
        let (mut now, mut seen) = (1000, 0);
        for (revision, (later, step)) in (1..).zip(steps) {
            now += later;
            let previous = match vault.get(&key) {
                Some(Slot::Stored(entry)) => Some(entry.clone()),
                _ => None,
            };
            let next = match step {
                Step::Put { start, end } => Entry::put(
                    previous.as_ref(),
                    draft(1, start.map(|s| now + s), end.map(|e| now + e)),
                    Revision(revision),
                    at(now),
                ).ok(),
                Step::Delete => Some(Entry::Deleted { revision: Revision(revision), at: at(now) }),
                Step::Wake => None,
            };
            if let Some(next) = next {
                prop_assert_eq!(next.revision(), Revision(revision));
                vault.install(key.clone(), Slot::Stored(next), at(now));
            }
            vault.wake(at(now));
            prop_assert!(vault.next_event().is_none_or(|event| event > at(now)));
            if let Some(Slot::Stored(entry)) = vault.get(&key)
                && let Selected::Current { version, .. } = entry.select(at(now))
            {
                prop_assert!(version.revision.0 >= seen);
                seen = version.revision.0;
                prop_assert!(version.not_before.is_none_or(|start| start <= at(now)));
                prop_assert!(version.expires.is_none_or(|end| end > at(now)));
            }
        }
    }

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
