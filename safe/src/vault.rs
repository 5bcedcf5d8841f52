//! What Safe holds, as pure state: no clock, no I/O, no tasks. `now` is always passed in.

use std::collections::{BTreeMap, BTreeSet};

use time::OffsetDateTime;
use vsecm_safe_api::name::SecretKey;

use crate::entry::{Entry, prune};

/// A key's place in the vault.
#[derive(Clone, Debug)]
pub enum Slot {
    /// An entry.
    Stored(Entry),
    /// A record that Safe cannot read.
    Unreadable,
}

#[derive(Debug)]
struct Place {
    slot: Slot,
    /// Where it stands in the agenda.
    event: Option<OffsetDateTime>,
}

/// All entries, and when each changes next.
#[derive(Debug, Default)]
pub struct Vault {
    places: BTreeMap<SecretKey, Place>,
    agenda: BTreeSet<(OffsetDateTime, SecretKey)>,
}

impl Vault {
    /// The slot of a key.
    pub fn get(&self, key: &SecretKey) -> Option<&Slot> {
        self.places.get(key).map(|place| &place.slot)
    }

    /// All slots, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&SecretKey, &Slot)> {
        self.places.iter().map(|(key, place)| (key, &place.slot))
    }

    /// Puts a slot in the place of whatever was there.
    pub fn install(&mut self, key: SecretKey, slot: Slot, now: OffsetDateTime) {
        let event = match &slot {
            Slot::Stored(entry) => entry.next_event(now),
            Slot::Unreadable => None,
        };
        let place = Place { slot, event };
        if let Some(event) = event {
            self.agenda.insert((event, key.clone()));
        }
        if let Some(old) = self.places.insert(key.clone(), place)
            && old.event != event
            && let Some(old) = old.event
        {
            self.agenda.remove(&(old, key));
        }
    }

    /// When to call [`Vault::wake`].
    pub fn next_event(&self) -> Option<OffsetDateTime> {
        self.agenda.first().map(|(at, _)| *at)
    }

    /// The keys whose selection has changed by now.
    pub fn wake(&mut self, now: OffsetDateTime) -> Vec<SecretKey> {
        let mut woken = Vec::new();
        while self.agenda.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.agenda.pop_first() else {
                break;
            };
            if let Some(place) = self.places.get_mut(&key)
                && let Slot::Stored(entry) = &mut place.slot
            {
                if let Entry::Live { versions, .. } = entry {
                    prune(versions, now);
                }
                place.event = entry.next_event(now);
                if let Some(event) = place.event {
                    self.agenda.insert((event, key.clone()));
                }
            }
            woken.push(key);
        }
        woken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vsecm_safe_api::{position::Revision, state::Reason};

    use super::*;
    use crate::entry::{
        Selected,
        tests::{at, draft, put, served},
    };

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
        let Some(Slot::Stored(entry)) = vault.get(&key) else { panic!("the entry must stay") };
        assert_eq!(entry.listed(at(200)).unwrap().1.document.as_ref().map(|d| d.size()), None);
        assert_eq!(served(entry, 200), Err(Reason::Expired));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put { start: Option<i64>, end: Option<i64> },
        Delete,
        Wake,
    }

    fn step() -> impl Strategy<Value = (i64, Step)> {
        let offset = || proptest::option::of(-5..20_i64);
        let put = (offset(), offset()).prop_map(|(start, end)| Step::Put { start, end });
        (0..8_i64, prop_oneof![4 => put, 1 => Just(Step::Delete), 2 => Just(Step::Wake)])
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
    }
}
