//! The entries with the SVIDs that stand for them now. No I/O, no clock of its own.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    ca::{CaError, Lifetime, Svid},
    entry::{Attested, Entry},
};

/// An entry and its SVID, which all who match the entry share, as in the cache of a SPIRE agent.
#[derive(Clone, Debug)]
pub(super) struct Issued {
    pub(super) entry: Entry,
    pub(super) svid: Arc<Svid>,
    /// Grows with each SVID of the book: tells two of them apart.
    serial: u64,
    renew_at: Option<Instant>,
}

/// All entries, in the order of their ids.
#[derive(Debug, Default)]
pub(super) struct Book {
    entries: BTreeMap<String, Issued>,
    issued: u64,
}

impl Book {
    /// Adds an entry or replaces it; a changed entry gets a new SVID.
    pub(super) fn put(
        &mut self,
        entry_id: &str,
        entry: Entry,
        now: Instant,
        issue: impl FnOnce(&Entry) -> Result<Svid, CaError>,
    ) -> Result<(), CaError> {
        let svid = Arc::new(issue(&entry)?);
        self.issued += 1;
        let issued =
            Issued { renew_at: renewal(entry.lifetime, now), serial: self.issued, entry, svid };
        self.entries.insert(entry_id.to_owned(), issued);
        Ok(())
    }

    /// Removes an entry; whether it was there.
    pub(super) fn remove(&mut self, entry_id: &str) -> bool {
        self.entries.remove(entry_id).is_some()
    }

    /// Entries that match, in the order of their ids: which, for SPIRE, are random.
    pub(super) fn matching<'a>(
        &'a self,
        attested: &'a Attested,
    ) -> impl Iterator<Item = &'a Issued> {
        let all = self.entries.values();
        all.filter(|issued| issued.entry.matches(attested))
    }

    /// What tells one answer for `attested` from another.
    pub(super) fn fingerprint(&self, attested: &Attested) -> Vec<u64> {
        self.matching(attested).map(|issued| issued.serial).collect()
    }

    /// When the next SVID is due.
    pub(super) fn next_renewal(&self) -> Option<Instant> {
        self.entries.values().filter_map(|i| i.renew_at).min()
    }

    /// Renews what is due; whether anything was.
    pub(super) fn renew(
        &mut self,
        now: Instant,
        issue: impl Fn(&Entry) -> Result<Svid, CaError>,
    ) -> Result<bool, CaError> {
        let mut renewed = false;
        for issued in self.entries.values_mut() {
            if issued.renew_at.is_some_and(|at| at <= now) {
                self.issued += 1;
                issued.svid = Arc::new(issue(&issued.entry)?);
                issued.serial = self.issued;
                issued.renew_at = renewal(issued.entry.lifetime, now);
                renewed = true;
            }
        }
        Ok(renewed)
    }
}

/// Half of the life: SPIRE adds a tenth of chance to either side, which tests do not want.
fn renewal(lifetime: Lifetime, now: Instant) -> Option<Instant> {
    match lifetime {
        // at least a little, so that a lifetime of nothing does not spin
        Lifetime::Renewed(ttl) => Some(now + (ttl / 2).max(Duration::from_millis(50))),
        Lifetime::Once(_) | Lifetime::Expired(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use spiffe::{SpiffeId, TrustDomain};

    use super::*;
    use crate::authority::ca::Ca;

    const TTL: Duration = Duration::from_mins(1);

    fn ca() -> Ca {
        Ca::new(TrustDomain::new("vsecm.com").unwrap()).unwrap()
    }

    fn entry(path: &str, selector: &str) -> Entry {
        let id = SpiffeId::new(format!("spiffe://vsecm.com/{path}")).unwrap();
        Entry::new(id, [selector.parse().unwrap()], Lifetime::Renewed(TTL))
    }

    fn issue(ca: &Ca) -> impl Fn(&Entry) -> Result<Svid, CaError> {
        |entry| ca.issue(&entry.id, entry.lifetime)
    }

    #[test]
    fn what_matches_comes_in_the_order_of_entry_ids() {
        let (ca, now) = (ca(), Instant::now());
        let mut book = Book::default();
        for (id, path) in [("c", "third"), ("a", "first"), ("b", "second")] {
            book.put(id, entry(path, "dev:x"), now, issue(&ca)).unwrap();
        }
        let other = entry("other", "dev:y");
        book.put("aa", other, now, issue(&ca)).unwrap();
        let attested = ["dev:x".parse().unwrap()].into();
        let paths: Vec<_> =
            book.matching(&attested).map(|i| i.entry.id.path().to_owned()).collect();
        assert_eq!(paths, ["/first", "/second", "/third"]);
    }

    #[test]
    fn an_svid_is_renewed_at_half_of_its_life_with_a_new_key() {
        let (ca, now) = (ca(), Instant::now());
        let mut book = Book::default();
        book.put("a", entry("a", "dev:x"), now, issue(&ca)).unwrap();
        let attested = ["dev:x".parse().unwrap()].into();
        let svid = |book: &Book| Arc::clone(&book.matching(&attested).next().unwrap().svid);
        let first = svid(&book);

        let early = now + TTL / 3;
        assert!(!book.renew(early, issue(&ca)).unwrap());
        assert_eq!(book.next_renewal(), Some(now + TTL / 2));
        let before = book.fingerprint(&attested);
        assert!(book.renew(now + TTL / 2, issue(&ca)).unwrap());
        assert_ne!(book.fingerprint(&attested), before);
        assert_ne!(svid(&book).key, first.key);
        assert_eq!(book.next_renewal(), Some(now + TTL));
    }

    #[test]
    fn an_svid_for_once_is_never_renewed() {
        let (ca, now) = (ca(), Instant::now());
        let mut book = Book::default();
        let once = Entry { lifetime: Lifetime::Once(TTL), ..entry("a", "dev:x") };
        book.put("a", once, now, issue(&ca)).unwrap();
        assert_eq!(book.next_renewal(), None);
        assert!(!book.renew(now + TTL * 2, issue(&ca)).unwrap());
    }
}
