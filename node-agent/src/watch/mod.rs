//! One watch at Safe per key, shared by all pods of this node that have the key.
//!
//! The key is what Safe decides on (trust domain, namespace, name), never the pod part of the
//! SPIFFE ID. The watch is held with the SVID of any of its pods; each pod must still have been
//! issued its own before its volume is ready, which is [`crate::volumes`]' business.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::{Notify, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use vsecm_node_agent_api::{frame::ContentKey, volume::VolumeId};
use vsecm_safe_api::{client::Address, state::Absent};

use self::retired::Retired;
use crate::{
    identity::Identity,
    keeper::Keeper,
    snapshot::{Snapshot, SnapshotKey},
    tls::BaseConfig,
};

mod ending;
mod note;
mod retained;
mod retired;
mod stream;
mod verdict;
mod word;

pub use self::{
    note::{Notes, is_note},
    retained::{Figures, Retained},
    word::Word,
};

/// How often a successor is left a sign of life.
const BEAT: Duration = Duration::from_mins(1);

/// What is known of a secret.
#[derive(Clone, Debug, Default)]
pub struct Feed {
    /// The last content, or its removal.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Why Safe has no content now, as it said last.
    pub absent: Option<Absent>,
    /// Why nothing newer is known.
    pub trouble: Option<Trouble>,
    /// Whether Safe would say the same now.
    pub word: Word,
}

impl Feed {
    /// Whether a volume may start from what is held: Safe stands by it or cannot be asked.
    pub fn may_start(&self) -> bool {
        match self.word {
            Word::Unsaid | Word::Current => true,
            Word::Lost(_) => self.trouble.as_ref().is_none_or(|trouble| trouble.kind.is_away()),
            Word::Provisional(_) => {
                let is_away = self.trouble.as_ref().is_some_and(|trouble| trouble.kind.is_away());
                is_away && self.absent.is_none()
            }
        }
    }
}

/// Nothing new comes from Safe.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// Since when.
    pub since: SystemTime,
    /// What kind of trouble it is.
    pub kind: TroubleKind,
    /// Why, in words.
    pub reason: String,
}

/// What a watch without news suffers from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TroubleKind {
    /// Safe does not answer, or is not to be found.
    Unreachable,
    /// Safe answers, and does not serve this identity.
    Refused,
    /// Safe answers, and cannot open its store before it has its root key.
    Locked,
    /// This process has no identity of its own, without which Safe cannot be told from others.
    NoOwnIdentity,
    /// The pod's identity has ended and was not renewed.
    IdentityExpired,
}

impl TroubleKind {
    /// Whether it says nothing about this pod: nobody can be asked what holds now.
    pub fn is_away(self) -> bool {
        match self {
            Self::Unreachable | Self::Locked | Self::NoOwnIdentity => true,
            Self::Refused | Self::IdentityExpired => false,
        }
    }
}

/// What all watches need.
#[derive(Debug)]
pub struct Means {
    /// Where Safe is.
    pub address: Address,
    /// How it is trusted; none before this process has its own identity.
    pub tls: watch::Receiver<Option<BaseConfig>>,
    /// Where snapshots are deposited.
    pub keeper: Keeper,
    /// Notified when members may have become able to acknowledge what they show.
    pub due: Arc<Notify>,
    /// How long content outlives its last volume, from the moment when Safe confirmed it last.
    pub max_stale: Duration,
}

#[derive(Debug)]
struct Member {
    identity: Option<Arc<Identity>>,
    /// What it shows, by its sequence.
    shows: Shows,
    /// What it is about to show.
    next: Option<u64>,
    /// What mounts show of it.
    holds: BTreeSet<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    Nothing,
    Version(u64),
    /// Whatever a predecessor had shown it: any version up to this.
    Inherited(u64),
}

/// A watch and those who share it.
#[derive(Debug)]
pub struct Watch {
    key: SnapshotKey,
    means: Arc<Means>,
    feed: watch::Sender<Feed>,
    members: Mutex<BTreeMap<VolumeId, Member>>,
    members_changed: Notify,
    versions: Mutex<Vec<Arc<Snapshot>>>,
    retired: Mutex<Retired>,
    has_retired: Notify,
    /// What Safe calls it, while it is open: a secret of the two.
    session: Mutex<Option<String>>,
    /// What is said by Safe and what ends by the clock take turns.
    publishing: tokio::sync::Mutex<()>,
    retained: Arc<Retained>,
    /// Whether a successor has been left a note about it.
    is_noted: AtomicBool,
    /// The version, by its sequence, that stays when the watch ends.
    stays: OnceLock<u64>,
    end: CancellationToken,
    ended: CancellationToken,
}

/// All watches of the node.
#[derive(Debug)]
pub struct Watches {
    means: Arc<Means>,
    open: Mutex<HashMap<SnapshotKey, Arc<Watch>>>,
    retained: Arc<Retained>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of a snapshot at the keeper; meaningless to it.
pub fn content_key(snapshot: &Snapshot) -> Option<ContentKey> {
    let key = snapshot.key().id();
    let text = format!("content-{key:?}-{:?}-{}", snapshot.id(), snapshot.sequence());
    ContentKey::try_from(text).ok()
}

impl Watches {
    /// No watches yet.
    pub fn new(means: Means) -> Self {
        let retained = Retained::new(means.keeper.clone(), means.max_stale);
        Self { means: Arc::new(means), open: Mutex::default(), retained: Arc::new(retained) }
    }

    /// What outlives its volumes.
    pub fn retained(&self) -> &Arc<Retained> {
        &self.retained
    }

    /// Takes over what has no volume, if it may still start one; whether it does.
    pub async fn retain(&self, snapshot: &Snapshot, notes: &Notes) -> bool {
        let is_retained = self.retained.take_over(snapshot, notes.confirmed(snapshot));
        if is_retained && !notes.has(snapshot.key()) {
            self.retained.leave_word(snapshot.key()).await;
        }
        is_retained
    }

    /// Lets go of what is retained when it is time, and leaves a successor signs of life. Never
    /// ends.
    pub async fn attend(&self) {
        let beating = async {
            loop {
                // it speaks for none of those
                let watches: Vec<_> = locked(&self.open).values().cloned().collect();
                for watch in watches {
                    watch.note().await;
                }
                self.retained.beat().await;
                sleep(BEAT).await;
            }
        };
        tokio::join!(self.retained.attend(), beating);
    }

    /// Since when Safe has confirmed nothing, of the watch of which that is longest so.
    pub fn unconfirmed_since(&self) -> Option<SystemTime> {
        let watches = locked(&self.open);
        let since = |watch: &Arc<Watch>| watch.feed.borrow().word.unconfirmed_since();
        watches.values().filter_map(since).min()
    }

    /// Takes over what a predecessor had deposited, the oldest first. What has come to its end in
    /// the meantime is gone before anyone sees it.
    pub async fn restore(&self, snapshots: Vec<Arc<Snapshot>>, notes: &Notes) {
        let mut restored = BTreeMap::new();
        for snapshot in snapshots {
            let watch = self.watch(&mut locked(&self.open), snapshot.key());
            locked(&watch.retired).sees(&snapshot);
            locked(&watch.versions).push(Arc::clone(&snapshot));
            let word = Word::Provisional(notes.confirmed(&snapshot));
            watch.is_noted.store(notes.has(&watch.key), Ordering::Relaxed);
            watch.feed.send_modify(|feed| {
                feed.snapshot = Some(snapshot);
                feed.word = word;
            });
            restored.insert(watch.key.clone(), watch);
        }
        for watch in restored.values() {
            watch.end_if_due().await;
        }
    }

    fn watch(
        &self,
        watches: &mut HashMap<SnapshotKey, Arc<Watch>>,
        key: &SnapshotKey,
    ) -> Arc<Watch> {
        if let Some(watch) = watches.get(key) {
            return Arc::clone(watch);
        }
        let mut feed = Feed::default();
        let retained = self.retained.give_back(key);
        let is_noted = retained.is_some();
        if let Some((snapshot, confirmed)) = retained {
            feed.snapshot = Some(snapshot);
            feed.word = Word::Provisional(confirmed);
        }
        let watch = Arc::new(Watch {
            key: key.clone(),
            means: Arc::clone(&self.means),
            versions: Mutex::new(feed.snapshot.iter().cloned().collect()),
            feed: watch::Sender::new(feed),
            members: Mutex::default(),
            members_changed: Notify::new(),
            retired: Mutex::default(),
            has_retired: Notify::new(),
            session: Mutex::default(),
            publishing: tokio::sync::Mutex::default(),
            retained: Arc::clone(&self.retained),
            is_noted: AtomicBool::new(is_noted),
            stays: OnceLock::new(),
            end: CancellationToken::new(),
            ended: CancellationToken::new(),
        });
        watches.insert(key.clone(), Arc::clone(&watch));
        let (running, end) = (Arc::clone(&watch), watch.end.clone());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = end.cancelled() => {}
                () = running.run() => {}
                () = running.end_in_time() => {}
                never = running.forget_in_time() => match never {},
            }
            // here, so that no deposit comes after it
            running.leave_nothing_else().await;
            running.ended.cancel();
        });
        watch
    }

    /// A volume shares the watch of `key`, once it has one with its own identity.
    pub fn join(
        &self,
        volume: &VolumeId,
        key: &SnapshotKey,
        identity: Option<Arc<Identity>>,
    ) -> Arc<Watch> {
        // under the map's lock: the last member cannot end the watch in between
        let mut watches = locked(&self.open);
        let watch = self.watch(&mut watches, key);
        let member = Member {
            shows: match &identity {
                Some(_) => Shows::Nothing,
                // it comes from a predecessor, with all that is there now
                None => Shows::Inherited(watch.newest()),
            },
            identity,
            next: None,
            holds: BTreeSet::new(),
        };
        locked(&watch.members).insert(volume.clone(), member);
        drop(watches);
        watch.members_changed.notify_one();
        watch
    }

    /// A volume is gone. Nobody but its members needs a watch, and its content outlives it only as
    /// what is retained.
    pub async fn leave(&self, volume: &VolumeId, watch: &Arc<Watch>) {
        let is_last = {
            // the map first: nobody can join between the look at the members and the end
            let mut watches = locked(&self.open);
            let is_last = watch.remove(volume);
            if is_last {
                watches.remove(&watch.key);
                // who joins from now on finds it there
                watch.retain();
            }
            drop(watches);
            is_last
        };
        if !is_last {
            watch.members_changed.notify_one();
            watch.forget_old().await;
            return;
        }
        watch.end.cancel();
        watch.ended.cancelled().await;
    }
}

impl Watch {
    /// Whose secret it is.
    pub fn key(&self) -> &SnapshotKey {
        &self.key
    }

    /// What is known of the secret, now and whenever that changes.
    pub fn subscribe(&self) -> watch::Receiver<Feed> {
        self.feed.subscribe()
    }

    /// All versions that a volume may still show, the oldest first.
    pub fn versions(&self) -> Vec<Arc<Snapshot>> {
        locked(&self.versions).clone()
    }

    /// Whether the last member is gone.
    fn remove(&self, volume: &VolumeId) -> bool {
        let mut members = locked(&self.members);
        members.remove(volume);
        members.is_empty()
    }

    /// The volume's identity was renewed, or withdrawn.
    pub fn set_identity(&self, volume: &VolumeId, identity: Option<Arc<Identity>>) {
        if let Some(member) = locked(&self.members).get_mut(volume) {
            member.identity = identity;
        }
        self.members_changed.notify_one();
        self.means.due.notify_one();
    }

    /// What Safe calls this watch, while it is open.
    pub fn session(&self) -> Option<String> {
        locked(&self.session).clone()
    }

    /// The volume's identity, if it is good now.
    pub fn identity_of(&self, volume: &VolumeId) -> Option<Arc<Identity>> {
        let members = locked(&self.members);
        let identity = members.get(volume)?.identity.clone()?;
        drop(members);
        (identity.expires > SystemTime::now()).then_some(identity)
    }

    /// The volume shows this version and no other one.
    pub async fn shows(&self, volume: &VolumeId, snapshot: &Snapshot) {
        if let Some(member) = locked(&self.members).get_mut(volume) {
            member.shows = Shows::Version(snapshot.sequence());
            member.next = None;
        }
        locked(&self.retired).sees(snapshot);
        self.forget_old().await;
    }

    /// The volume is about to show this version: a successor may find either.
    pub fn will_show(&self, volume: &VolumeId, snapshot: &Snapshot) {
        if let Some(member) = locked(&self.members).get_mut(volume) {
            member.next = Some(snapshot.sequence());
        }
        locked(&self.retired).sees(snapshot);
    }

    /// Mounts show these versions of the volume, which a successor is to find too.
    pub async fn holds(&self, volume: &VolumeId, versions: BTreeSet<u64>) {
        if let Some(member) = locked(&self.members).get_mut(volume) {
            member.holds = versions;
        }
        self.forget_old().await;
    }

    fn newest(&self) -> u64 {
        let feed = self.feed.borrow();
        feed.snapshot.as_ref().map_or(0, |newest| newest.sequence())
    }

    async fn forget_old(&self) {
        let unneeded = self.take_unneeded();
        let newest = self.feed.borrow().snapshot.clone();
        let (forgotten, stay) = {
            let mut retired = locked(&self.retired);
            let forgotten = retired.add(unneeded, newest.as_deref(), Instant::now());
            (forgotten, !retired.is_empty())
        };
        if stay {
            self.has_retired.notify_one();
        }
        for snapshot in forgotten {
            self.forget(&snapshot).await;
        }
    }

    /// Forgets retired versions when their time has come; for ever.
    async fn forget_in_time(&self) -> Infallible {
        loop {
            self.has_retired.notified().await;
            sleep(retired::GRACE).await;
            self.forget_old().await;
        }
    }

    /// Takes versions that no member shows or is about to show; the newest stays. So a volume that
    /// is stuck keeps two versions, however many come after them.
    fn take_unneeded(&self) -> Vec<Arc<Snapshot>> {
        let newest = self.newest();
        let members = locked(&self.members);
        let is_needed = |version: &Arc<Snapshot>| {
            let sequence = version.sequence();
            sequence >= newest
                || members.values().any(|member| {
                    let shown = match member.shows {
                        Shows::Nothing => false,
                        Shows::Version(version) => version == sequence,
                        Shows::Inherited(newest) => sequence <= newest,
                    };
                    shown || member.next == Some(sequence) || member.holds.contains(&sequence)
                })
        };
        let mut versions = locked(&self.versions);
        let (kept, unneeded) = versions.drain(..).partition(is_needed);
        *versions = kept;
        drop(versions);
        drop(members);
        unneeded
    }

    /// Leaves the newest version to a volume that comes, if it can start from it.
    fn retain(&self) {
        let newest = locked(&self.versions).iter().max_by_key(|v| v.sequence()).cloned();
        let feed = self.feed.borrow().clone();
        let stays = newest.and_then(|newest| self.retained.take_in(&newest, &feed));
        if let Some(stays) = stays {
            // a watch ends once
            self.stays.set(stays).ok();
        }
    }

    /// What is not retained goes.
    async fn leave_nothing_else(&self) {
        let versions = std::mem::take(&mut *locked(&self.versions));
        let newest = versions.iter().map(|version| version.sequence()).max();
        let mut stays = self.stays.get().copied();
        // a deletion, or a version, that came while the last volume left
        if let Some(kept) = stays.filter(|kept| newest.is_some_and(|newest| newest > *kept)) {
            self.retained.give_up(&self.key, kept).await;
            stays = None;
        }
        let retired = locked(&self.retired).take();
        let all = versions.iter().chain(&retired);
        for snapshot in all.filter(|version| Some(version.sequence()) != stays) {
            self.forget(snapshot).await;
        }
        match stays {
            Some(_) => self.retained.leave_word(&self.key).await,
            None => self.retained.forget_note(&self.key).await,
        }
    }

    async fn forget(&self, snapshot: &Snapshot) {
        if let Some(key) = content_key(snapshot) {
            self.means.keeper.remove(key).await;
        }
    }

    /// What Safe would have said.
    #[cfg(test)]
    pub(crate) async fn publish(&self, snapshot: Snapshot) {
        self.show(Arc::new(snapshot), |feed| {
            feed.absent = None;
            feed.word = Word::Current;
        })
        .await;
    }

    /// Keeps `snapshot`, then shows it to all members, with what else is true from now on.
    async fn show(&self, snapshot: Arc<Snapshot>, also: impl FnOnce(&mut Feed)) {
        {
            // first of all: should the watch end during the deposit, it is known what to forget
            let mut versions = locked(&self.versions);
            // the same version, of which more is known now, takes its place
            versions.retain(|version| version.sequence() != snapshot.sequence());
            versions.push(Arc::clone(&snapshot));
        }
        if let Some(key) = content_key(&snapshot) {
            // before anyone sees it: a successor must never go back behind what was seen
            self.means.keeper.deposit(key, snapshot.memfd()).await;
        } else {
            warn!("a version cannot be named at the keeper");
        }
        self.feed.send_modify(|feed| {
            feed.snapshot = Some(snapshot);
            also(feed);
        });
        self.forget_old().await;
    }
}
