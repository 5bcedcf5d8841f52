//! The volumes of this node: attach, serve, resume, detach, and recovery after a death.

use std::{
    collections::{HashMap, HashSet},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout, timeout_at},
};
use tracing::{error, info, warn};
use vsecm_node_agent_api::{
    client::{AskError, RESUME_WAIT},
    frame::{AgentReply, Serving as IsServing, sentence},
    volume::{Gate as Gating, InodeKey, PodRef, VolumeId, VolumeRecord},
};
use vsecm_safe_api::name::Namespace;

use self::{
    binding::{Binding, is_binding},
    owner::{Command, Gate, Owner, Status},
};
pub use self::{
    census::Census,
    presence::{Lack, Presence},
};
use crate::{
    audit::Audit,
    duty::Duty,
    filesystem::Requests,
    identity::{Past, PodIdentity},
    keeper::Keeper,
    kubernetes::driver::Driver,
    metrics::Times,
    report::{Reports, is_origin},
    session::Start,
    snapshot::{Snapshot, SnapshotKey},
    watch::{Figures, Notes, Watches, content_key, is_note},
};

mod binding;
mod census;
mod listing;
mod owner;
mod presence;
mod reason;
mod shown;
#[cfg(test)]
mod tests;

/// At start the API server answers within moments.
const DRIVER_WAIT: Duration = Duration::from_secs(5);

/// The kubelet asks again within 2 m 2 s for a pod that is still there.
const ASKED_AGAIN: Duration = Duration::from_secs(150);

/// Commands that wait for a volume's task.
const QUEUE: usize = 8;

/// What volumes need.
pub struct Means {
    /// Pods' identities.
    pub identities: Box<dyn PodIdentity>,
    /// Secrets' content.
    pub watches: Watches,
    /// What outlives this process.
    pub keeper: Keeper,
    /// Orders to csi.
    pub duty: Arc<Duty>,
    /// What Safe is told.
    pub reports: Arc<Reports>,
    /// Whether the kubelet's word about pods can be believed.
    pub driver: watch::Receiver<Driver>,
    /// Sentinel's namespace, where secrets are registered.
    pub sentinel: Namespace,
    /// Who opened what.
    pub audit: Audit,
    /// What the kernel asks.
    pub requests: Arc<Requests>,
    /// How long things take.
    pub times: Times,
    /// Ends the process: a session broke, and only a new process can go on with it.
    pub fatal: mpsc::Sender<String>,
}

struct Volume {
    record: VolumeRecord,
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Status>,
}

/// All volumes.
pub struct Volumes {
    means: Arc<Means>,
    known: Mutex<HashMap<VolumeId, Arc<Volume>>>,
    /// Refused, since the kubelet's word cannot be believed.
    held_back: Mutex<HashMap<VolumeId, HeldBack>>,
}

/// A volume whose pod may not be the one that the kubelet names.
#[derive(Clone)]
struct HeldBack {
    pod: PodRef,
    since: SystemTime,
    /// Refused last.
    last: Instant,
    sentence: String,
}

impl std::fmt::Debug for Volumes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volumes").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Means {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Means").finish_non_exhaustive()
    }
}

fn refused(reason: impl Into<String>) -> AgentReply {
    AgentReply::Refused { reason: sentence(reason.into()) }
}

/// Whether the pod of a volume that a predecessor served had an identity.
fn past_of(record: &VolumeRecord, binding: Option<&Binding>) -> Past {
    if binding.is_some() || record.options.gate == Gating::Required {
        Past::Issued
    } else {
        Past::Unknown
    }
}

impl Volumes {
    /// No volumes yet.
    pub fn new(means: Means) -> Self {
        Self { means: Arc::new(means), known: Mutex::default(), held_back: Mutex::default() }
    }

    fn get(&self, volume: &VolumeId) -> Option<Arc<Volume>> {
        let mut volumes = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if volumes.get(volume)?.commands.is_closed() {
            volumes.remove(volume);
            return None;
        }
        volumes.get(volume).cloned()
    }

    fn get_or_start(
        &self,
        record: &VolumeRecord,
        binding: Option<&Binding>,
        past: Past,
    ) -> Arc<Volume> {
        let mut volumes = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = volumes.get(&record.volume);
        if let Some(volume) = known.filter(|volume| !volume.commands.is_closed()) {
            return Arc::clone(volume);
        }
        // under the lock, so that a volume never has two owners
        let (commands, receiver) = mpsc::channel(QUEUE);
        let (owner, status) =
            Owner::new(record.clone(), Arc::clone(&self.means), binding, past, receiver);
        tokio::spawn(owner.run());
        let volume = Arc::new(Volume { record: record.clone(), commands, status });
        volumes.insert(record.volume.clone(), Arc::clone(&volume));
        volume
    }

    /// Gets the content into memory, at most for `hold`.
    pub async fn attach(&self, record: VolumeRecord, hold: Duration) -> AgentReply {
        let deadline = Instant::now() + hold;
        let is_served = self.get(&record.volume).is_some_and(|known| {
            known.record.asks_the_same(&record) && known.status.borrow().serving == IsServing::Yes
        });
        // what is served already was believed before
        if !is_served && let Some(reason) = self.disbelief(&record, deadline).await {
            return AgentReply::Waiting { reason: sentence(reason) };
        }
        if let Some(known) = self.get(&record.volume)
            && !known.record.asks_the_same(&record)
        {
            if known.status.borrow().serving == IsServing::Yes {
                return refused(
                    "the volume is served already, for another pod or with other options",
                );
            }
            self.detach(&record.volume).await;
        }
        let volume = self.get_or_start(&record, None, Past::Unknown);
        let mut status = volume.status.clone();
        let decided = status.wait_for(|status| !matches!(status.gate, Gate::Waiting(_)));
        let gate = match timeout_at(deadline, decided).await {
            Ok(Ok(status)) => status.gate.clone(),
            Ok(Err(_ended)) => {
                let reason = "the volume was detached meanwhile".to_owned();
                return AgentReply::Withdrawn { reason };
            }
            Err(_elapsed) => volume.status.borrow().gate.clone(),
        };
        match gate {
            Gate::Ready => {
                let refusal = if is_served { None } else { self.refusal(&record) };
                refusal.map_or(AgentReply::Ready, |reason| AgentReply::Waiting {
                    reason: sentence(reason),
                })
            }
            Gate::Waiting(reason) => AgentReply::Waiting { reason: sentence(reason.sentence) },
            Gate::Withdrawn(reason) => {
                // the pod is probably gone; should it ask again, it starts anew
                self.detach(&record.volume).await;
                AgentReply::Withdrawn { reason: sentence(reason) }
            }
        }
    }

    /// Why the kubelet's word cannot be believed, if so. Only what is about to be known is waited
    /// for: an object that is wrong is said at once.
    async fn disbelief(&self, record: &VolumeRecord, deadline: Instant) -> Option<String> {
        let mut driver = self.means.driver.clone();
        let known = driver.wait_for(|driver| !matches!(driver, Driver::Unknown(_)));
        drop(timeout_at(deadline.min(Instant::now() + DRIVER_WAIT), known).await);
        self.refusal(record)
    }

    /// The same, without a wait; metrics and Safe hear of it.
    fn refusal(&self, record: &VolumeRecord) -> Option<String> {
        let refusal = self.means.driver.borrow().refusal();
        let mut held_back = self.held_back();
        let before = held_back.remove(&record.volume);
        if let Some(sentence) = &refusal {
            let held = HeldBack {
                pod: record.pod.clone(),
                since: before.map_or_else(SystemTime::now, |before| before.since),
                last: Instant::now(),
                sentence: sentence.clone(),
            };
            held_back.insert(record.volume.clone(), held);
        }
        drop(held_back);
        self.means.reports.changed();
        refusal
    }

    /// Those whose pods still ask: nobody says that a volume which was refused is gone.
    fn held_back(&self) -> MutexGuard<'_, HashMap<VolumeId, HeldBack>> {
        let mut held_back = self.held_back.lock().unwrap_or_else(PoisonError::into_inner);
        held_back.retain(|_volume, held| held.last.elapsed() < ASKED_AGAIN);
        held_back
    }

    /// Serves an attached volume on a fresh descriptor.
    pub async fn serve(&self, volume: &VolumeId, key: InodeKey, descriptor: OwnedFd) -> AgentReply {
        match self.get(volume) {
            Some(known) => Self::start(&known, key, descriptor, Start::Fresh).await,
            None => refused("the volume is not attached here: attach it first"),
        }
    }

    /// Goes on serving a descriptor that a predecessor of this process served.
    pub async fn resume(&self, record: &VolumeRecord, descriptor: OwnedFd) -> AgentReply {
        let volume = self.get_or_start(record, None, past_of(record, None));
        let mut status = volume.status.clone();
        let has_content = status.wait_for(|status| status.has_content);
        if timeout(RESUME_WAIT, has_content).await.is_err() {
            let reason = match volume.status.borrow().gate.clone() {
                Gate::Waiting(reason) => reason.sentence,
                Gate::Withdrawn(reason) => reason,
                Gate::Ready => "its content is not known".to_owned(),
            };
            return refused(format!("the volume cannot be resumed yet: {reason}"));
        }
        Self::start(&volume, record.inode_key, descriptor, Start::Resumed).await
    }

    async fn start(
        volume: &Volume,
        inode_key: InodeKey,
        descriptor: OwnedFd,
        start: Start,
    ) -> AgentReply {
        let (reply, done) = oneshot::channel();
        let command = Command::Serve { descriptor, start, inode_key, reply };
        if volume.commands.send(command).await.is_err() {
            return refused("the volume was detached meanwhile");
        }
        match done.await {
            Ok(Ok(())) => AgentReply::Served,
            Ok(Err(reason)) => refused(reason),
            Err(_ended) => refused("the volume was detached meanwhile"),
        }
    }

    /// Forgets a volume.
    pub async fn detach(&self, volume: &VolumeId) {
        self.held_back().remove(volume);
        let known = {
            let mut volumes = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            volumes.remove(volume)
        };
        self.means.reports.changed();
        let Some(known) = known else { return };
        let (reply, done) = oneshot::channel();
        if known.commands.send(Command::Detach { reply }).await.is_ok() {
            // an error is the end of the task: it is detached then
            drop(done.await);
        }
    }

    /// The state of a volume.
    pub fn state(&self, volume: &VolumeId) -> AgentReply {
        let status =
            self.get(volume).map(|volume| volume.status.borrow().clone()).unwrap_or_default();
        AgentReply::State {
            serving: status.serving,
            condition: status.condition().map(sentence),
            gravity: status.gravity(Instant::now()),
            bytes: status.bytes,
            files: status.files,
        }
    }

    /// Resumes everything that the keeper has, before anyone can be told that this process is there.
    ///
    /// # Errors
    /// [`AskError`]: then nothing is recovered, and csi brings its descriptors.
    pub async fn recover(&self) -> Result<(), AskError> {
        let records = self.means.keeper.volumes().await?;
        let mut bindings = HashMap::new();
        let mut snapshots = Vec::new();
        let mut notes = Notes::default();
        for (key, memfd) in self.means.keeper.contents().await? {
            if is_origin(&key) {
                self.means.reports.adopt(&memfd);
                continue;
            }
            if is_note(&key) {
                if !notes.read(&memfd) {
                    warn!("a note at the keeper is not understood");
                }
                continue;
            }
            if is_binding(&key) {
                if let Some(binding) = Binding::from_memfd(&memfd) {
                    bindings.insert(binding.volume.clone(), binding);
                } else {
                    warn!("a binding at the keeper is not understood");
                }
                continue;
            }
            match Snapshot::load(memfd) {
                Ok(snapshot) => snapshots.push(Arc::new(snapshot)),
                Err(error) => error!(%error, "content at the keeper is not understood"),
            }
        }
        bindings.retain(|volume, _| records.iter().any(|(record, _)| record.volume == *volume));
        snapshots.sort_by_key(|snapshot| snapshot.sequence());
        self.forget_unneeded(&bindings, &mut snapshots, &notes).await;
        self.means.watches.restore(snapshots, &notes).await;
        // all join before the first is served: a version that one of them shows is not forgotten
        let volumes: Vec<_> = records
            .into_iter()
            .map(|(record, descriptor)| {
                let binding = bindings.get(&record.volume);
                let past = past_of(&record, binding);
                (self.get_or_start(&record, binding, past), descriptor)
            })
            .collect();
        let count = volumes.len();
        for (volume, descriptor) in volumes {
            Self::recover_one(volume, descriptor).await;
        }
        info!(count, "volumes were taken over");
        Ok(())
    }

    async fn recover_one(volume: Arc<Volume>, descriptor: OwnedFd) {
        if volume.status.borrow().has_content {
            Self::start_recovered(&volume, descriptor).await;
            return;
        }
        warn!(volume = %volume.record.volume, "no content was left for the volume; it is resumed when Safe has given it again");
        tokio::spawn(async move {
            let mut status = volume.status.clone();
            if status.wait_for(|status| status.has_content).await.is_ok() {
                Self::start_recovered(&volume, descriptor).await;
            }
        });
    }

    async fn start_recovered(volume: &Volume, descriptor: OwnedFd) {
        let key = volume.record.inode_key;
        let started = Self::start(volume, key, descriptor, Start::Resumed).await;
        if let AgentReply::Refused { reason } = started {
            warn!(volume = %volume.record.volume, reason, "the volume is not resumed");
        }
    }

    /// Takes content from the keeper that belongs to no volume and is not retained.
    async fn forget_unneeded(
        &self,
        bindings: &HashMap<VolumeId, Binding>,
        snapshots: &mut Vec<Arc<Snapshot>>,
        notes: &Notes,
    ) {
        let Means { keeper, watches, .. } = &*self.means;
        let is_needed = |key: &SnapshotKey| bindings.values().any(|b| b.key == *key);
        let (needed, others): (Vec<_>, Vec<_>) =
            std::mem::take(snapshots).into_iter().partition(|s| is_needed(s.key()));
        *snapshots = needed;
        // the last is the newest
        let newest: HashMap<_, _> = others.iter().map(|s| (s.key(), s.sequence())).collect();
        let mut retained = HashSet::new();
        for snapshot in &others {
            let is_newest = newest.get(snapshot.key()) == Some(&snapshot.sequence());
            if is_newest && watches.retain(snapshot, notes).await {
                retained.insert(snapshot.key());
            } else if let Some(key) = content_key(snapshot) {
                keeper.remove(key).await;
            }
        }
        for key in notes.keys().filter(|key| !retained.contains(key) && !is_needed(key)) {
            watches.retained().forget_note(key).await;
        }
    }

    /// Lets go of what is retained when it is time, and leaves a successor word. Never ends.
    pub async fn attend(&self) {
        self.means.watches.attend().await;
    }

    /// What outlives its volumes, and since when Safe has confirmed nothing of what they show.
    pub fn retention(&self) -> (Figures, Option<SystemTime>) {
        let watches = &self.means.watches;
        (watches.retained().figures(), watches.unconfirmed_since())
    }
}
