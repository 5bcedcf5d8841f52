//! The life of a volume: up, kept up, down.
//!
//! One errand at a time per volume, each a task of its own: a dropped RPC stops nothing half-done,
//! and a second publish waits in line and finds the volume up (an ABORTED would cost the kubelet's
//! backoff). An unpublish ends the wait of the publishes before it.

mod bring_up;
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
    task::{JoinError, spawn_blocking},
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use vsecm_node_agent_api::{
    client::{AskError, Door},
    target::{Target, TargetError},
    volume::{VolumeId, VolumeRecord},
};

use crate::mount::{Kubelet, StepError};

/// Why a volume is not up, or not down. All of it can heal: the kubelet hears UNAVAILABLE and
/// comes again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error("{0}")]
    NotYet(String),
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
}

impl Held {
    fn new(record: VolumeRecord, fuse: Option<OwnedFd>) -> Self {
        let (fuse, writable, swapping) = (fuse.map(Arc::new), None, Arc::default());
        Self { record, fuse, writable, swapping }
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

/// All volumes of the node.
#[derive(Debug)]
pub(crate) struct Volumes {
    pub(crate) agent: Door,
    keeper: Door,
    pub(crate) kubelet: Arc<Kubelet>,
    /// How long a publish waits for its secret.
    hold: Duration,
    /// Ends every wait.
    stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    state: State,
}

#[derive(Debug, Default)]
struct State {
    held: Mutex<BTreeMap<VolumeId, Held>>,
    lanes: Mutex<HashMap<VolumeId, Lane>>,
    settling: sync::Mutex<()>,
    unsettled: Notify,
}

// no code runs under these locks that could panic, so a poisoned one is as good as new
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Volumes {
    pub(crate) fn new(
        (agent, keeper): (Door, Door),
        kubelet: Kubelet,
        hold: Duration,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let (kubelet, tasks, state) = (Arc::new(kubelet), TaskTracker::new(), State::default());
        Arc::new(Self { agent, keeper, kubelet, hold, stop, tasks, state })
    }

    /// Brings a volume up, or finds it up.
    pub(crate) async fn publish(self: &Arc<Self>, record: VolumeRecord) -> Result<(), Trouble> {
        let (this, lane) = (Arc::clone(self), self.lane(&record.volume));
        let task = async move {
            let turn = timeout_at(lane.end, lane.turn.lock());
            let turn = lane.cancel.run_until_cancelled(turn).await.ok_or(Trouble::Cancelled)?;
            let _turn = turn.map_err(|_late| Trouble::Busy)?;
            this.bring_up(&record, &lane).await
        };
        self.tasks.spawn(task).await?
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
        lock(&self.state.held).insert(held.record.volume.clone(), held);
    }

    /// The volume's lane: the turn lasts as long as anybody is in it, the token until it is used.
    fn lane(&self, volume: &VolumeId) -> Lane {
        let mut lanes = lock(&self.state.lanes);
        // nobody but this list
        lanes.retain(|_, lane| Arc::strong_count(&lane.turn) > 1);
        let end = Instant::now() + self.hold;
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
