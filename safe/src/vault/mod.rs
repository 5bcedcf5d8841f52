//! What Safe holds, as pure state: no clock, no I/O, no tasks. `now` is always passed in.

mod entry;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use time::OffsetDateTime;
use vsecm_safe_api::name::SecretKey;

use self::entry::prune;
pub use self::entry::{Draft, Entry, PutError, Selected, Version};

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
