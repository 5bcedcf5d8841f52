//! One watch at Safe per key, shared by all pods of this node that have the key.
//!
//! The key is what Safe decides on (trust domain, namespace, name), never the pod part of the
//! SPIFFE ID. The watch is held with the SVID of any of its pods; each pod must still have been
//! issued its own before its volume is ready, which is [`crate::volumes`]' business.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime},
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
    snapshot::{Snapshot, SnapshotKey, VersionId},
    tls::BaseConfig,
};

mod retired;
mod stream;
mod verdict;

/// What is known of a secret.
#[derive(Clone, Debug, Default)]
pub struct Feed {
    /// The last content, or its removal.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Why Safe has no content now, as it said last.
    pub absent: Option<Absent>,
    /// Why nothing newer is known.
    pub trouble: Option<Trouble>,
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
    end: CancellationToken,
    ended: CancellationToken,
}

/// All watches of the node.
#[derive(Debug)]
pub struct Watches {
    means: Arc<Means>,
    watches: Mutex<HashMap<SnapshotKey, Arc<Watch>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of a snapshot at the keeper; meaningless to it.
pub fn content_key(snapshot: &Snapshot) -> Option<ContentKey> {
    let secret = &snapshot.key().secret;
    let key = VersionId::of(&[
        snapshot.key().trust_domain.as_bytes(),
        secret.namespace.as_str().as_bytes(),
        secret.name.as_str().as_bytes(),
    ]);
    let text = format!("content-{key:?}-{:?}-{}", snapshot.id(), snapshot.sequence());
    ContentKey::try_from(text).ok()
}

impl Watches {
    /// No watches yet.
    pub fn new(means: Means) -> Self {
        Self { means: Arc::new(means), watches: Mutex::default() }
    }

    /// Takes over what a predecessor had deposited, the oldest first.
    pub fn restore(&self, snapshots: Vec<Arc<Snapshot>>) {
        for snapshot in snapshots {
            let watch = self.watch(&mut locked(&self.watches), snapshot.key());
            locked(&watch.retired).sees(&snapshot);
            locked(&watch.versions).push(Arc::clone(&snapshot));
            watch.feed.send_modify(|feed| feed.snapshot = Some(snapshot));
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
        let watch = Arc::new(Watch {
            key: key.clone(),
            means: Arc::clone(&self.means),
            feed: watch::Sender::default(),
            members: Mutex::default(),
            members_changed: Notify::new(),
            versions: Mutex::default(),
            retired: Mutex::default(),
            has_retired: Notify::new(),
            session: Mutex::default(),
            end: CancellationToken::new(),
            ended: CancellationToken::new(),
        });
        watches.insert(key.clone(), Arc::clone(&watch));
        let (running, end) = (Arc::clone(&watch), watch.end.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = running.run() => {}
                never = running.forget_in_time() => match never {},
            }
            // here, so that no deposit comes after it
            let versions = std::mem::take(&mut *locked(&running.versions));
            let retired = locked(&running.retired).take();
            for snapshot in versions.into_iter().chain(retired) {
                running.forget(&snapshot).await;
            }
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
        let mut watches = locked(&self.watches);
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

    /// A volume is gone. Nobody but its members needs a watch's content.
    pub async fn leave(&self, volume: &VolumeId, watch: &Arc<Watch>) {
        let is_last = {
            // the map first: nobody can join between the look at the members and the end
            let mut watches = locked(&self.watches);
            let is_last = watch.remove(volume);
            if is_last {
                watches.remove(&watch.key);
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

    async fn forget(&self, snapshot: &Snapshot) {
        if let Some(key) = content_key(snapshot) {
            self.means.keeper.remove(key).await;
        }
    }

    /// Keeps `snapshot`, then shows it to all members.
    pub(crate) async fn publish(&self, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        // first of all: should the watch end during the deposit, it is known what to forget
        locked(&self.versions).push(Arc::clone(&snapshot));
        if let Some(key) = content_key(&snapshot) {
            // before anyone sees it: a successor must never go back behind what was seen
            self.means.keeper.deposit(key, snapshot.memfd()).await;
        } else {
            warn!("a version cannot be named at the keeper");
        }
        self.feed.send_modify(|feed| {
            feed.snapshot = Some(snapshot);
            feed.absent = None;
        });
        self.forget_old().await;
    }
}
