//! Content whose last volume has gone: a new pod with an equal key starts from it while Safe cannot
//! be asked.
//!
//! It costs Safe nothing: nobody watches it. So it is provisional, and ends at its own end, once
//! nobody has confirmed it for `--max-stale`, or when there is too much of it.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{sync::Notify, time::sleep};
use tracing::{info, warn};
use vsecm_node_agent_api::frame::ContentKey;

use super::{
    Feed, Trouble, TroubleKind, content_key, locked,
    note::{alive_key, note, note_key},
};
use crate::{
    keeper::Keeper,
    snapshot::{Content, Snapshot, SnapshotKey},
    wait::moment,
};

/// Longest sleep before the wall clock is read again: it may be set while we sleep.
pub(super) const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// Secrets that are retained at most …
const LIMIT: usize = 256;

/// … and bytes of them.
const BYTES_LIMIT: usize = 16 * 1024 * 1024;

/// What is retained on this node, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Secrets.
    pub secrets: usize,
    /// Bytes of their documents.
    pub bytes: usize,
    /// Volumes that were started from content which Safe could not be asked about.
    pub started: u64,
}

/// A document without volumes.
#[derive(Debug)]
struct Kept {
    /// Read back from its memfd: nothing of what volumes made of it is left.
    snapshot: Arc<Snapshot>,
    name: ContentKey,
    bytes: usize,
    /// When Safe confirmed it last.
    confirmed: SystemTime,
    /// Why and when it goes.
    due: (SystemTime, Why),
}

/// Why content is retained no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    /// Its time is over.
    Expired,
    /// Nobody has confirmed it for too long.
    Stale,
    /// Other content takes its place.
    NoRoom,
}

/// What is retained.
#[derive(Debug)]
pub struct Retained {
    keeper: Keeper,
    max_stale: Duration,
    kept: Mutex<BTreeMap<SnapshotKey, Kept>>,
    changed: Notify,
    started: AtomicU64,
}

impl Retained {
    pub(super) fn new(keeper: Keeper, max_stale: Duration) -> Self {
        Self {
            keeper,
            max_stale,
            kept: Mutex::default(),
            changed: Notify::new(),
            started: AtomicU64::new(0),
        }
    }

    /// What there is.
    pub fn figures(&self) -> Figures {
        let kept = locked(&self.kept);
        let (secrets, bytes) = (kept.len(), kept.values().map(|kept| kept.bytes).sum());
        drop(kept);
        Figures { secrets, bytes, started: self.started.load(Ordering::Relaxed) }
    }

    /// A volume was started from content that Safe could not be asked about.
    pub fn count_start(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes content whose last volume goes, if a new one may ever start from it; its sequence.
    pub(super) fn take_in(&self, snapshot: &Snapshot, feed: &Feed) -> Option<u64> {
        let now = SystemTime::now();
        // whatever Safe said against it, or against this identity: it is not to start a pod
        let refused = |trouble: &Trouble| trouble.kind == TroubleKind::Refused;
        let is_clear = feed.absent.is_none() && !feed.trouble.as_ref().is_some_and(refused);
        let confirmed = is_clear.then(|| feed.word.held_true(now)).flatten()?;
        self.insert(snapshot, confirmed, now).then(|| snapshot.sequence())
    }

    /// Takes what a predecessor retained, or what lost its volumes while no process lived.
    pub(super) fn take_over(&self, snapshot: &Snapshot, confirmed: SystemTime) -> bool {
        self.insert(snapshot, confirmed, SystemTime::now())
    }

    fn insert(&self, snapshot: &Snapshot, confirmed: SystemTime, now: SystemTime) -> bool {
        // the clock may have been set back
        let confirmed = confirmed.min(now);
        let due = self.due(snapshot, confirmed);
        let is_document = matches!(snapshot.content(), Content::Document { .. });
        let Some(name) = content_key(snapshot).filter(|_| is_document && due.0 > now) else {
            return false;
        };
        let bytes = snapshot.document().len();
        let snapshot = match Snapshot::load(snapshot.memfd()) {
            Ok(snapshot) => Arc::new(snapshot),
            Err(error) => {
                warn!(%error, "content cannot be retained");
                return false;
            }
        };
        let kept = Kept { snapshot: Arc::clone(&snapshot), name, bytes, confirmed, due };
        locked(&self.kept).insert(snapshot.key().clone(), kept);
        info!(secret = %snapshot.key().secret, version = snapshot.folder(), confirmed = moment(confirmed), until = moment(due.0), "no volume shows it any more; it is retained for a pod that comes while Safe is away");
        self.changed.notify_one();
        true
    }

    fn due(&self, snapshot: &Snapshot, confirmed: SystemTime) -> (SystemTime, Why) {
        let stale = (confirmed.checked_add(self.max_stale).unwrap_or(confirmed), Why::Stale);
        let end = snapshot.expires().map(|end| (end, Why::Expired));
        end.map_or(stale, |end| end.min(stale))
    }

    /// Gives it back to a volume, with the time when Safe confirmed it last.
    pub(super) fn give_back(&self, key: &SnapshotKey) -> Option<(Arc<Snapshot>, SystemTime)> {
        let mut kept = locked(&self.kept);
        let Entry::Occupied(entry) = kept.entry(key.clone()) else {
            return None;
        };
        if entry.get().due.0 <= SystemTime::now() {
            return None;
        }
        let Kept { snapshot, confirmed, .. } = entry.remove();
        drop(kept);
        Some((snapshot, confirmed))
    }

    /// Safe said something newer while it was taken in.
    pub(super) async fn give_up(&self, key: &SnapshotKey, sequence: u64) {
        let gone = {
            let mut kept = locked(&self.kept);
            let is_it = kept.get(key).is_some_and(|kept| kept.snapshot.sequence() == sequence);
            if is_it { kept.remove(key) } else { None }
        };
        if let Some(gone) = gone {
            self.keeper.remove(gone.name).await;
        }
    }

    /// Leaves a successor word of what was taken in.
    pub(super) async fn leave_word(&self, key: &SnapshotKey) {
        let confirmed = locked(&self.kept).get(key).map(|kept| kept.confirmed);
        if let Some(confirmed) = confirmed {
            self.note(key, confirmed).await;
        }
    }

    /// Tells a successor when Safe confirmed a secret's content last.
    pub(super) async fn note(&self, key: &SnapshotKey, confirmed: SystemTime) {
        if let (Some(name), Some(memfd)) = (note_key(key), note(Some(key), confirmed)) {
            self.keeper.deposit(name, memfd).await;
        }
    }

    /// The sign of life speaks for it again, or nothing is left of it.
    pub async fn forget_note(&self, key: &SnapshotKey) {
        if let Some(name) = note_key(key) {
            self.keeper.remove(name).await;
        }
    }

    /// Leaves a successor a sign of life.
    pub(super) async fn beat(&self) {
        if let (Some(name), Some(memfd)) = (alive_key(), note(None, SystemTime::now())) {
            self.keeper.deposit(name, memfd).await;
        }
    }

    /// Drops what is due. Never ends.
    pub(super) async fn attend(&self) {
        loop {
            self.drop_due(SystemTime::now()).await;
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep(self.pause(SystemTime::now())) => {}
            }
        }
    }

    fn pause(&self, now: SystemTime) -> Duration {
        let next = locked(&self.kept).values().map(|kept| kept.due.0).min();
        let left = next.map_or(LONGEST_SLEEP, |due| due.duration_since(now).unwrap_or_default());
        left.min(LONGEST_SLEEP)
    }

    async fn drop_due(&self, now: SystemTime) {
        for (key, name, why) in self.take_due(now) {
            info!(secret = %key.secret, ?why, "content is retained no longer");
            self.keeper.remove(name).await;
            self.forget_note(&key).await;
        }
    }

    fn take_due(&self, now: SystemTime) -> Vec<(SnapshotKey, ContentKey, Why)> {
        let mut kept = locked(&self.kept);
        let room = surplus(&kept);
        let is_due = |key: &SnapshotKey, kept: &mut Kept| kept.due.0 <= now || room.contains(key);
        let gone: Vec<_> = kept.extract_if(.., is_due).collect();
        drop(kept);
        let why = |due: (SystemTime, Why)| if due.0 <= now { due.1 } else { Why::NoRoom };
        gone.into_iter().map(|(key, kept)| (key, kept.name, why(kept.due))).collect()
    }
}

/// What has no room, beginning with what was confirmed longest ago.
fn surplus(kept: &BTreeMap<SnapshotKey, Kept>) -> Vec<SnapshotKey> {
    let mut newest: Vec<_> = kept.iter().collect();
    newest.sort_by_key(|(_key, kept)| std::cmp::Reverse(kept.confirmed));
    let mut bytes = 0;
    let has_no_room = |(at, (_key, kept)): &(usize, (&SnapshotKey, &Kept))| {
        bytes += kept.bytes;
        *at >= LIMIT || bytes > BYTES_LIMIT
    };
    newest
        .into_iter()
        .enumerate()
        .filter(has_no_room)
        .map(|(_at, (key, _kept))| key.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use vsecm_node_agent_api::peer::PeerRule;

    use super::*;
    use crate::{
        snapshot::tests::{document, document_named, document_until, key},
        watch::Word,
    };

    fn retained(max_stale: Duration) -> Retained {
        let keeper = Keeper::new("/nowhere".into(), PeerRule::Uid(0));
        Retained::new(keeper, max_stale)
    }

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn content_is_given_back_with_the_time_of_its_last_confirmation() {
        let (retained, confirmed) = (retained(HOUR), SystemTime::now() - HOUR / 2);
        let before = document(7, "{\"a\":1}");
        assert!(retained.take_over(&before, confirmed));
        assert_eq!((retained.figures().secrets, retained.figures().bytes), (1, 7));
        let (after, at) = retained.give_back(before.key()).unwrap();
        assert_eq!((after.id(), after.sequence(), at), (before.id(), before.sequence(), confirmed));
        assert!(retained.give_back(before.key()).is_none(), "it is a volume's now");
    }

    #[test]
    fn what_is_too_old_or_over_or_not_to_be_kept_is_not_taken() {
        let now = SystemTime::now();
        assert!(!retained(HOUR).take_over(&document(7, "{}"), now - HOUR));
        assert!(!retained(Duration::ZERO).take_over(&document(7, "{}"), now));
        let over = document_until(key().secret, 7, "{}", Some(now));
        assert!(!retained(HOUR).take_over(&over, now));
    }

    #[test]
    fn what_safe_spoke_against_or_never_confirmed_is_not_taken() {
        let (retained, snapshot) = (retained(HOUR), document(7, "{}"));
        let mut feed = Feed { word: Word::Current, ..Feed::default() };
        assert_eq!(retained.take_in(&snapshot, &feed), Some(snapshot.sequence()));
        feed.absent = Some(super::super::verdict::over(None, snapshot.position().unwrap()));
        assert_eq!(retained.take_in(&snapshot, &feed), None);
        assert_eq!(retained.take_in(&snapshot, &Feed::default()), None);
    }

    #[test]
    fn it_goes_at_its_end_or_when_it_is_stale_whatever_comes_first() {
        let (retained, now) = (retained(HOUR), SystemTime::now());
        let minute = Duration::from_mins(1);
        let ends = document_until(key().secret, 7, "{}", Some(now + minute));
        let stays = document_named("default", "other", 8, "{}");
        for snapshot in [&ends, &stays] {
            assert!(retained.take_over(snapshot, now));
        }
        assert_eq!(retained.pause(now), LONGEST_SLEEP);
        assert_eq!(retained.pause(now + minute - Duration::from_secs(1)), Duration::from_secs(1));
        let gone = |now| {
            let due = retained.take_due(now);
            due.into_iter().map(|(key, _, why)| (key, why)).collect::<Vec<_>>()
        };
        assert_eq!(gone(now), []);
        assert_eq!(gone(now + minute), [(ends.key().clone(), Why::Expired)]);
        assert_eq!(gone(now + HOUR), [(stays.key().clone(), Why::Stale)]);
    }

    #[test]
    fn what_was_confirmed_longest_ago_makes_room() {
        let (retained, now) = (retained(HOUR), SystemTime::now());
        for number in 0..=LIMIT {
            let snapshot = document_named("default", &format!("w{number}"), 1, "{}");
            let age = Duration::from_secs(u64::try_from(number).unwrap());
            assert!(retained.take_over(&snapshot, now - age));
        }
        let gone = retained.take_due(now);
        let [(oldest, _, Why::NoRoom)] = &*gone else { panic!("one has no room: {gone:?}") };
        assert_eq!(oldest.secret.name.as_str(), format!("w{LIMIT}"));
        let large = format!("\"{}\"", "x".repeat(1024 * 1024 - 2));
        for number in 0..17 {
            let snapshot = document_named("large", &format!("w{number}"), 1, &large);
            assert!(retained.take_over(&snapshot, now + Duration::from_secs(number)));
        }
        retained.take_due(now);
        let Figures { secrets, bytes, .. } = retained.figures();
        assert_eq!((secrets, bytes), (16, BYTES_LIMIT));
    }
}
