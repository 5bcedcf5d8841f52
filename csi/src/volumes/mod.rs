//! The life of a volume: up, kept up, down.
//!
//! One errand at a time per volume, each a task of its own: a dropped RPC stops nothing half-done,
//! and a second publish waits in line and finds the volume up (an ABORTED would cost the kubelet's
//! backoff). An unpublish ends the wait of the publishes before it.

mod bring_up;
mod claims;
mod collect;
mod look;
mod settle;
mod take_down;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{self, Notify},
    task::{JoinError, JoinSet, spawn_blocking},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use vsecm_node_agent_api::{
    client::{AskError, Door, VolumeState, chain},
    target::{Target, TargetError},
    volume::{VolumeId, VolumeRecord},
};

pub(crate) use self::claims::Crowded;
use self::claims::{Claims, Hold};
use crate::mount::{Kubelet, Label, StepError, control::Control};

/// Why a volume is not up, or not down. All of it can heal: the kubelet hears UNAVAILABLE and
/// comes again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error("{0}")]
    NotYet(String),
    #[error(transparent)]
    Crowded(#[from] Crowded),
    #[error("this driver has just started and takes its volumes over from the keeper")]
    Recovering,
    #[error("the wait was ended: the volume is being taken down, or the driver is stopping")]
    Cancelled,
    #[error("another call for this volume has not come to an end yet")]
    Busy,
    #[error("{0} is at the target already")]
    Occupied(String),
    #[error("the FUSE connection of the volume is dead: the pod must be restarted")]
    Dead,
    #[error(transparent)]
    Peer(#[from] AskError),
    #[error(transparent)]
    Mount(#[from] StepError),
    #[error("the record's target cannot be used")]
    Target(#[from] TargetError),
    #[error("the task for the volume died")]
    Lost(#[from] JoinError),
}

/// A volume and its descriptors.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) record: VolumeRecord,
    /// `/dev/fuse`. Missing only where csi and keeper lost everything and node-agent serves on.
    fuse: Option<Arc<OwnedFd>>,
    /// The private read-write mount, once the volume is attached.
    pub(crate) writable: Option<Arc<OwnedFd>>,
    /// Held by the swap that runs, for as long as the server lets its thread hang.
    pub(crate) swapping: Arc<sync::Mutex<()>>,
    /// What node-agent said of it last.
    seen: Arc<Mutex<Option<VolumeState>>>,
}

impl Held {
    fn new(record: VolumeRecord, fuse: Option<OwnedFd>) -> Self {
        let (fuse, writable) = (fuse.map(Arc::new), None);
        Self { record, fuse, writable, swapping: Arc::default(), seen: Arc::default() }
    }
}

/// An errand's place in the line of its volume.
#[derive(Clone, Debug)]
struct Lane {
    turn: Arc<sync::Mutex<()>>,
    /// Ends the wait of a publish.
    cancel: CancellationToken,
    /// When a publish has waited long enough.
    end: Instant,
}

/// How long a publish waits for its secret.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holds {
    /// The first time.
    pub(crate) first: Duration,
    /// Later.
    pub(crate) later: Duration,
}

/// What volumes need.
#[derive(Debug)]
pub(crate) struct Means {
    pub(crate) agent: Door,
    pub(crate) keeper: Door,
    pub(crate) kubelet: Kubelet,
    /// Of all files, where the node has `SELinux`.
    pub(crate) label: Option<Label>,
    pub(crate) holds: Holds,
    /// Ends every wait.
    pub(crate) stop: CancellationToken,
}

/// All volumes of the node.
#[derive(Debug)]
pub(crate) struct Volumes {
    pub(crate) agent: Door,
    keeper: Door,
    pub(crate) kubelet: Arc<Kubelet>,
    label: Option<Label>,
    holds: Holds,
    stop: CancellationToken,
    /// Missing where this process may not abort connections: in a user namespace.
    control: Option<Arc<Control>>,
    /// Whether the volumes have been taken over.
    pub(crate) recovered: CancellationToken,
    pub(crate) tasks: TaskTracker,
    state: State,
}

#[derive(Debug, Default)]
struct State {
    held: Mutex<BTreeMap<VolumeId, Held>>,
    claims: Mutex<Claims>,
    lanes: Mutex<HashMap<VolumeId, Lane>>,
    settling: sync::Mutex<()>,
    unsettled: Notify,
}

/// Recovery takes milliseconds, unless the keeper is away.
const RECOVERY: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

/// Volumes that are looked after at once: while a peer hangs, each costs some seconds.
const AT_ONCE: usize = 32;

// no code runs under these locks that could panic, so a poisoned one is as good as new
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Volumes {
    pub(crate) fn new(means: Means) -> Arc<Self> {
        let Means { agent, keeper, kubelet, label, holds, stop } = means;
        let control = Control::mount().inspect_err(|error| {
            tracing::warn!(error = chain(error), "FUSE connections cannot be aborted here");
        });
        Arc::new(Self {
            agent,
            keeper,
            kubelet: Arc::new(kubelet),
            label,
            holds,
            stop,
            control: control.ok().map(Arc::new),
            recovered: CancellationToken::new(),
            tasks: TaskTracker::new(),
            state: State::default(),
        })
    }

    /// Brings a volume up, or finds it up.
    pub(crate) async fn publish(self: &Arc<Self>, record: VolumeRecord) -> Result<(), Trouble> {
        self.wait_for_recovery(RECOVERY).await?;
        let (volume, target) = (record.volume.clone(), record.target.parse()?);
        lock(&self.state.claims).admit(&volume, &target)?;
        let (this, lane) = (Arc::clone(self), self.lane(&volume));
        let task = async move {
            let done = this.publish_in_turn(&record, &lane).await;
            if done.is_err() {
                lock(&this.state.claims).has_waited(&record.volume);
            }
            done
        };
        self.tasks.spawn(task).await?
    }

    async fn publish_in_turn(&self, record: &VolumeRecord, lane: &Lane) -> Result<(), Trouble> {
        let turn = timeout_at(lane.end, lane.turn.lock());
        let turn = lane.cancel.run_until_cancelled(turn).await.ok_or(Trouble::Cancelled)?;
        let _turn = turn.map_err(|_late| Trouble::Busy)?;
        self.bring_up(record, lane).await
    }

    /// Nothing is published or unpublished before it is known what is there.
    pub(crate) async fn wait_for_recovery(&self, patience: Duration) -> Result<(), Trouble> {
        let recovered = timeout(patience, self.recovered.cancelled());
        let recovered = self.stop.run_until_cancelled(recovered).await.ok_or(Trouble::Cancelled)?;
        recovered.map_err(|_late| Trouble::Recovering)
    }

    /// Has a held volume served by a node-agent that does not do so yet; it is never gated.
    pub(crate) async fn revive(&self, volume: &VolumeId) -> Result<(), Trouble> {
        let lane = self.lane(volume);
        // a busy lane looks after its volume by itself
        let (Ok(_turn), Some(held)) = (lane.turn.try_lock(), self.held(volume)) else {
            return Ok(());
        };
        self.serve_on(&held).await
    }

    pub(crate) fn held(&self, volume: &VolumeId) -> Option<Held> {
        lock(&self.state.held).get(volume).cloned()
    }

    pub(crate) fn ids(&self) -> Vec<VolumeId> {
        lock(&self.state.held).keys().cloned().collect()
    }

    /// Whether one of the two is recorded with another partner.
    fn is_no_pair(&self, volume: &VolumeId, target: &Target) -> bool {
        let target = target.to_string();
        let other = |h: &Held| (h.record.volume == *volume) != (h.record.target == target);
        lock(&self.state.held).values().any(other)
    }

    fn hold_on(&self, held: Held) {
        if let Ok(target) = held.record.target.parse() {
            lock(&self.state.claims).keep(&held.record.volume, &target);
        }
        lock(&self.state.held).insert(held.record.volume.clone(), held);
    }

    /// The volume's lane: the turn lasts as long as anybody is in it, the token until it is used.
    fn lane(&self, volume: &VolumeId) -> Lane {
        let hold = match lock(&self.state.claims).hold(volume) {
            Hold::First => self.holds.first,
            Hold::Later => self.holds.later,
        };
        let mut lanes = lock(&self.state.lanes);
        // nobody but this list
        lanes.retain(|_, lane| Arc::strong_count(&lane.turn) > 1);
        let end = Instant::now() + hold;
        let fresh = || Lane { turn: Arc::default(), cancel: self.stop.child_token(), end };
        let lane = lanes.entry(volume.clone()).or_insert_with(fresh);
        if lane.cancel.is_cancelled() {
            lane.cancel = self.stop.child_token();
        }
        let lane = Lane { end, ..lane.clone() };
        drop(lanes);
        lane
    }

    /// Runs a mount operation beside the async threads; it is never dropped half-way.
    async fn at<T: Send + 'static>(
        &self,
        target: &Target,
        operation: impl FnOnce(&Kubelet, &Target) -> Result<T, StepError> + Send + 'static,
    ) -> Result<T, Trouble> {
        let (kubelet, target) = (Arc::clone(&self.kubelet), target.clone());
        Ok(spawn_blocking(move || operation(&kubelet, &target)).await??)
    }
}

/// Does something for each, for [`AT_ONCE`] of them at a time.
pub(crate) async fn each<T, F>(all: impl IntoIterator<Item = T>, work: impl Fn(T) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut at_work = JoinSet::new();
    for one in all {
        if at_work.len() >= AT_ONCE {
            at_work.join_next().await;
        }
        at_work.spawn(work(one));
    }
    at_work.join_all().await;
}
