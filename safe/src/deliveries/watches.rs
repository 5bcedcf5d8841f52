//! Which watches are open, and what was sent on each: an acknowledgement must cite one.
//!
//! An SVID alone acknowledges nothing. Only who holds the watch knows its id, which is random, and
//! what came on it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use vsecm_safe_api::{name::SecretKey, position::Shown};

use super::token::Token;

/// States that are remembered of each watch. Where more come than can be shown, who shows an older
/// one shows a newer one soon.
const REMEMBERED: usize = 32;

/// Why an acknowledgement is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No watch, one that has ended, or one that never was.
    #[error("no open watch has the id that the acknowledgement cites; watch again first")]
    NoWatch,
    /// Another secret's.
    #[error("the watch that the acknowledgement cites is of another secret")]
    OtherSecret,
    /// Nobody can show what nobody was sent.
    #[error("what the acknowledgement names was not sent on the watch that it cites")]
    NotSent,
}

impl Refusal {
    /// All, so that a metric has each of them also at zero.
    pub const ALL: [Self; 3] = [Self::NoWatch, Self::OtherSecret, Self::NotSent];

    /// As metrics label it.
    pub fn label(self) -> &'static str {
        match self {
            Self::NoWatch => "no_watch",
            Self::OtherSecret => "other_secret",
            Self::NotSent => "not_sent",
        }
    }
}

#[derive(Debug)]
struct Live {
    key: SecretKey,
    sent: VecDeque<Shown>,
}

impl Live {
    fn has_sent(&self, shown: &Shown) -> bool {
        // without content since a while: the absence that was said again is the one that is shown
        let is_still_so = |last: &Shown| {
            last.digest.is_none()
                && shown.digest.is_none()
                && last.lineage == shown.lineage
                && last.revision >= shown.revision
        };
        self.sent.contains(shown) || self.sent.back().is_some_and(is_still_so)
    }
}

/// The open watches.
#[derive(Debug, Default)]
pub struct Watches(Mutex<HashMap<Token, Live>>);

impl Watches {
    fn live(&self) -> MutexGuard<'_, HashMap<Token, Live>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens one.
    ///
    /// # Errors
    /// The kernel gives no random bytes.
    pub fn open(self: &Arc<Self>, key: SecretKey) -> Result<Open, getrandom::Error> {
        let id = Token::random()?;
        self.live().insert(id, Live { key, sent: VecDeque::new() });
        Ok(Open { id, watches: Arc::clone(self) })
    }

    /// Whether who has the secret `key` can show this, as far as the watch knows.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check(&self, id: Option<Token>, key: &SecretKey, shown: &Shown) -> Result<(), Refusal> {
        let watches = self.live();
        let live = id.and_then(|id| watches.get(&id)).ok_or(Refusal::NoWatch)?;
        if live.key != *key {
            return Err(Refusal::OtherSecret);
        }
        if live.has_sent(shown) { Ok(()) } else { Err(Refusal::NotSent) }
    }
}

/// A watch that is open until this is dropped.
#[derive(Debug)]
pub struct Open {
    id: Token,
    watches: Arc<Watches>,
}

impl Open {
    /// Its id, for its holder alone.
    pub fn id(&self) -> Token {
        self.id
    }

    /// This was sent on it, or is what its holder has already.
    pub fn sent(&self, shown: Shown) {
        let mut watches = self.watches.live();
        let Some(live) = watches.get_mut(&self.id) else { return };
        if live.sent.len() == REMEMBERED {
            live.sent.pop_front();
        }
        live.sent.push_back(shown);
        drop(watches);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.watches.live().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use vsecm_safe_api::{
        position::{Digest, Lineage, Revision},
        state::Format,
    };

    use super::*;

    fn key(name: &str) -> SecretKey {
        SecretKey::parse("shop", name).unwrap()
    }

    fn content(revision: u64, text: &str) -> Shown {
        let digest = Some(Digest::of(Format::Json, text.as_bytes()));
        Shown { digest, ..absence(revision) }
    }

    fn absence(revision: u64) -> Shown {
        let lineage = Lineage::from_random([7; 16]);
        Shown { lineage, revision: Revision(revision), digest: None }
    }

    #[test]
    fn only_what_was_sent_on_an_open_watch_of_the_same_secret_can_be_shown() {
        let watches = Arc::new(Watches::default());
        let check = |id, name, shown: &Shown| watches.check(id, &key(name), shown);
        let (watch, other) = (watches.open(key("db")).unwrap(), watches.open(key("web")).unwrap());
        let shown = content(3, "a");
        assert_eq!(check(Some(watch.id()), "db", &shown), Err(Refusal::NotSent));
        watch.sent(shown.clone());
        assert_eq!(check(Some(watch.id()), "db", &shown), Ok(()));
        assert_eq!(check(None, "db", &shown), Err(Refusal::NoWatch));
        assert_eq!(check(Some(Token::random().unwrap()), "db", &shown), Err(Refusal::NoWatch));
        assert_eq!(check(Some(other.id()), "db", &shown), Err(Refusal::OtherSecret));
        assert_eq!(check(Some(watch.id()), "web", &shown), Err(Refusal::OtherSecret));
        let foreign = Shown { lineage: Lineage::from_random([8; 16]), ..shown.clone() };
        for never in [content(2, "a"), content(4, "a"), content(3, "b"), absence(3), foreign] {
            assert_eq!(check(Some(watch.id()), "db", &never), Err(Refusal::NotSent), "{never:?}");
        }
        let id = watch.id();
        drop(watch);
        assert_eq!(check(Some(id), "db", &shown), Err(Refusal::NoWatch));
        assert_eq!(watches.live().len(), 1, "nothing is kept of what has ended");
    }

    #[test]
    fn an_absence_that_was_said_again_is_the_one_that_is_shown() {
        let watches = Arc::new(Watches::default());
        let watch = watches.open(key("db")).unwrap();
        let check = |shown: &Shown| watches.check(Some(watch.id()), &key("db"), shown);
        watch.sent(absence(9));
        assert_eq!(check(&absence(5)), Ok(()));
        assert_eq!(check(&absence(10)), Err(Refusal::NotSent));
        watch.sent(content(10, "a"));
        assert_eq!(check(&absence(5)), Err(Refusal::NotSent), "there is content since");
        assert_eq!(check(&absence(9)), Ok(()), "it was sent itself, and may be shown still");
    }

    #[test]
    fn a_watch_remembers_a_bounded_number_of_states() {
        let watches = Arc::new(Watches::default());
        let watch = watches.open(key("db")).unwrap();
        for revision in 0..1000 {
            watch.sent(content(revision, "a"));
        }
        assert_eq!(watches.live()[&watch.id()].sent.len(), REMEMBERED);
        let newest = content(999, "a");
        assert_eq!(watches.check(Some(watch.id()), &key("db"), &newest), Ok(()));
    }
}
