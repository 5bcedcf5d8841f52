//! The task that owns one volume.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::{debug, error, info, warn};
use vsecm_node_agent_api::{
    frame::Serving as IsServing,
    volume::{Gate as Gating, OnWithdraw, VolumeRecord},
};
use vsecm_safe_api::client::chain;

use super::{
    Means,
    binding::{Access, Binding, binding_key},
    reason,
    shown::Shown,
};
use crate::{
    backoff::Backoff,
    duty::DutyError,
    identity::{Identity, Issue, Standing},
    session::{End, Start},
    snapshot::{Content, SnapshotKey},
    tree::{Nothing, Source},
    watch::{Feed, Watch},
};

/// Unpublish unmounts before it detaches: in between the session has ended rightly.
const DETACH_WAIT: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 10_000 });

/// How often versions that nobody reads any more are looked for.
const PRUNE: Duration = Duration::from_secs(15);

/// What the task is told.
pub(super) enum Command {
    /// Serve on this descriptor.
    Serve {
        descriptor: OwnedFd,
        start: Start,
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// Forget the volume.
    Detach { reply: oneshot::Sender<()> },
}

/// Whether the volume may be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// Not yet, and why.
    Waiting(String),
    /// Now.
    Ready,
    /// Not any more, and why.
    Withdrawn(String),
}

/// What others see of the volume.
#[derive(Clone, Debug)]
pub(super) struct Status {
    pub(super) gate: Gate,
    pub(super) has_content: bool,
    pub(super) serving: IsServing,
    pub(super) condition: Option<String>,
    pub(super) bytes: u64,
    pub(super) files: u64,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            gate: Gate::Waiting("nothing is known of the volume yet".to_owned()),
            has_content: false,
            serving: IsServing::No,
            condition: None,
            bytes: 0,
            files: 0,
        }
    }
}

struct Member {
    watch: Arc<Watch>,
    feed: watch::Receiver<Feed>,
}

/// Whether the pod gets what is new.
enum Updates {
    /// It does.
    Flow,
    /// It has no identity: what it saw stays.
    Stopped(Option<Source>),
    /// It lost its identity, and asked for its files to go then.
    Revoked,
}

type Swapping = JoinHandle<Result<(), DutyError>>;

pub(super) struct Owner {
    record: VolumeRecord,
    means: Arc<Means>,
    commands: mpsc::Receiver<Command>,
    status: watch::Sender<Status>,
    news_of_identity: watch::Receiver<Standing>,
    /// What was acted upon.
    standing: Standing,
    member: Option<Member>,
    updates: Updates,
    shown: Option<Shown>,
    /// When a session that ended must have been detached.
    detach_due: Option<Instant>,
    swapping: Option<(Source, Swapping)>,
    swap_trouble: Option<String>,
    swap_again: Instant,
    backoff: Backoff,
}

/// Whether the task goes on.
enum Next {
    Live,
    End,
}

impl Owner {
    pub(super) fn new(
        record: VolumeRecord,
        means: Arc<Means>,
        binding: Option<&Binding>,
        commands: mpsc::Receiver<Command>,
    ) -> (Self, watch::Receiver<Status>) {
        let mut owner = Self {
            news_of_identity: means.identities.follow(&record.pod),
            standing: Standing::default(),
            record,
            commands,
            status: watch::Sender::default(),
            member: None,
            updates: Updates::Flow,
            shown: None,
            detach_due: None,
            swapping: None,
            swap_trouble: None,
            swap_again: Instant::now(),
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(5)),
            means,
        };
        if let Some(binding) = binding {
            owner.join(&binding.key, None);
            // until the pod is issued its own identity again it sees what was left for it
            owner.updates = match binding.access {
                Access::Granted => Updates::Stopped(owner.newest()),
                Access::Revoked => Updates::Revoked,
            };
        }
        owner.tell();
        let status = owner.status.subscribe();
        (owner, status)
    }

    pub(super) async fn run(mut self) {
        let mut arrivals = self.means.duty.arrivals();
        let mut prune = interval(PRUNE);
        prune.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.news_of_identity.mark_changed();
        loop {
            // before all else: no update passes by a withdrawal
            if self.news_of_identity.has_changed().unwrap_or(false) {
                self.take_standing().await;
            }
            self.swap_if_needed().await;
            self.tell();
            let next = tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => Next::End,
                },
                Ok(()) = self.news_of_identity.changed() => {
                    self.take_standing().await;
                    Next::Live
                }
                () = news(&mut self.member) => Next::Live,
                outcome = outcome(&mut self.swapping) => {
                    self.swapped(outcome).await;
                    Next::Live
                }
                () = sleep_until(self.swap_again), if self.swap_trouble.is_some() && self.swapping.is_none() && self.swap_again > Instant::now() => Next::Live,
                Ok(()) = arrivals.changed() => {
                    self.swap_again = Instant::now();
                    self.backoff.reset();
                    Next::Live
                }
                how = end(&mut self.shown) => self.ended(how).await,
                () = due(self.detach_due) => self.not_detached().await,
                _tick = prune.tick() => {
                    if let Some(shown) = &self.shown {
                        shown.prune();
                    }
                    Next::Live
                }
            };
            if matches!(next, Next::End) {
                return;
            }
        }
    }

    fn feed(&self) -> Option<Feed> {
        self.member.as_ref().map(|m| m.feed.borrow().clone())
    }

    fn newest(&self) -> Option<Source> {
        self.feed()?.snapshot.map(Source::Said)
    }

    /// What the pod is to see.
    fn desired(&self) -> Option<Source> {
        let optional = || {
            let is_optional = self.record.options.gate == Gating::Optional;
            is_optional.then_some(Source::Nothing(Nothing::NotYet))
        };
        match &self.updates {
            Updates::Revoked => Some(Source::Nothing(Nothing::Revoked)),
            Updates::Stopped(source) => source.clone().or_else(optional),
            Updates::Flow => self.newest().or_else(optional),
        }
    }

    fn gate(&self, standing: &Standing, feed: Option<&Feed>) -> Gate {
        let holds_document = feed
            .and_then(|feed| feed.snapshot.as_ref())
            .is_some_and(|snapshot| matches!(snapshot.content(), Content::Document { .. }));
        let is_optional = self.record.options.gate == Gating::Optional;
        match &standing.issue {
            _ if self.shown.is_some() => Gate::Ready,
            Issue::Withdrawn => Gate::Withdrawn(reason::withdrawn(&self.record.pod)),
            Issue::Issued(_) if holds_document => Gate::Ready,
            _ if is_optional => Gate::Ready,
            _ => {
                let key = self.member.as_ref().map(|member| member.watch.key());
                Gate::Waiting(reason::waiting(&self.record.pod, standing, key.zip(feed)))
            }
        }
    }

    fn tell(&self) {
        let standing = &self.standing;
        let feed = self.feed();
        let tree = self.shown.as_ref().and_then(Shown::tree);
        let status = Status {
            gate: self.gate(standing, feed.as_ref()),
            has_content: self.desired().is_some(),
            serving: match self.shown {
                Some(_) => IsServing::Yes,
                None => IsServing::No,
            },
            condition: reason::condition(
                &self.record.pod,
                standing,
                feed.as_ref(),
                self.swap_trouble.as_deref(),
            ),
            bytes: tree.as_ref().map_or(0, |tree| tree.size() as u64),
            files: tree.as_ref().map_or(0, |tree| tree.files().len() as u64),
        };
        self.status.send_replace(status);
    }

    fn join(&mut self, key: &SnapshotKey, identity: Option<Arc<Identity>>) {
        let watch = self.means.watches.join(&self.record.volume, key, identity);
        let feed = watch.subscribe();
        self.member = Some(Member { watch, feed });
    }

    async fn take_standing(&mut self) {
        self.standing = self.news_of_identity.borrow_and_update().clone();
        match self.standing.issue.clone() {
            Issue::NotYet => {}
            Issue::Issued(identity) => self.issued(identity).await,
            Issue::Withdrawn => self.withdrawn().await,
        }
    }

    async fn issued(&mut self, identity: Arc<Identity>) {
        let had_access = matches!(self.updates, Updates::Flow);
        let same_key = match &self.member {
            Some(member) if *member.watch.key() == identity.key => {
                let volume = &self.record.volume;
                member
                    .watch
                    .set_identity(volume, Some(Arc::clone(&identity)));
                true
            }
            Some(_) | None => false,
        };
        self.updates = Updates::Flow;
        if same_key && had_access {
            return;
        }
        if !same_key {
            let before = self.member.take();
            self.join(&identity.key, Some(Arc::clone(&identity)));
            if let Some(before) = before {
                warn!(volume = %self.record.volume, secret = %identity.key.secret, "the pod's identity now stands for another secret");
                let volume = &self.record.volume;
                self.means.watches.leave(volume, &before.watch).await;
            }
        }
        self.bind(Access::Granted).await;
    }

    async fn withdrawn(&mut self) {
        let Some(member) = &self.member else { return };
        member.watch.set_identity(&self.record.volume, None);
        let pod = &self.record.pod;
        match self.record.options.on_withdraw {
            OnWithdraw::Keep => {
                warn!(volume = %self.record.volume, pod = %pod.name, namespace = %pod.namespace, "the pod's identity was withdrawn: its files stay, without updates");
                if matches!(self.updates, Updates::Flow) {
                    self.updates = Updates::Stopped(self.newest());
                }
            }
            OnWithdraw::Revoke => {
                warn!(volume = %self.record.volume, pod = %pod.name, namespace = %pod.namespace, "the pod's identity was withdrawn: its files go");
                self.updates = Updates::Revoked;
                self.bind(Access::Revoked).await;
            }
        }
    }

    /// Leaves word for a successor.
    async fn bind(&self, access: Access) {
        let Some(member) = &self.member else { return };
        let binding = Binding {
            volume: self.record.volume.clone(),
            key: member.watch.key().clone(),
            access,
        };
        if let (Some(key), Some(memfd)) = (binding_key(&binding.volume), binding.to_memfd()) {
            self.means.keeper.deposit(key, memfd).await;
        } else {
            warn!(volume = %binding.volume, "no word can be left for a successor");
        }
    }

    async fn obey(&mut self, command: Command) -> Next {
        match command {
            Command::Serve {
                descriptor,
                start,
                reply,
            } => {
                let done = self.serve(descriptor, start).await;
                self.tell();
                if reply.send(done).is_err() {
                    debug!(volume = %self.record.volume, "csi did not wait for the session");
                }
                Next::Live
            }
            Command::Detach { reply } => {
                self.forget().await;
                if reply.send(()).is_err() {
                    debug!(volume = %self.record.volume, "csi did not wait for the end");
                }
                Next::End
            }
        }
    }

    async fn serve(&mut self, descriptor: OwnedFd, start: Start) -> Result<(), String> {
        match (&self.shown, start) {
            (Some(_), Start::Resumed) => return Ok(()),
            (Some(_), Start::Fresh) => {
                return Err("the volume is served already: detach it first".to_owned());
            }
            (None, _) => {}
        }
        let source = self
            .desired()
            .ok_or("the volume has no content yet: attach it first")?;
        let older = self.older_than(&source, start);
        let shown = Shown::start(&self.record, source, older, descriptor, start)
            .await
            .map_err(|error| chain(&error))?;
        info!(volume = %self.record.volume, pod = %self.record.pod.name, namespace = %self.record.pod.namespace, ?start, "serving");
        self.shown = Some(shown);
        self.detach_due = None;
        self.settled().await;
        Ok(())
    }

    /// Versions that a predecessor may have shown until its death.
    fn older_than(&self, source: &Source, start: Start) -> Vec<Arc<crate::snapshot::Snapshot>> {
        let (Source::Said(newest), Some(member), Start::Resumed) = (source, &self.member, start)
        else {
            return Vec::new();
        };
        let mut versions = member.watch.versions();
        versions.retain(|version| version.sequence() < newest.sequence());
        versions
    }

    /// Readers see what they are to see: older versions are not needed, and Safe hears of it.
    async fn settled(&self) {
        let (Some(member), Some(shown)) = (&self.member, &self.shown) else {
            return;
        };
        let tree = shown.tree();
        let Some(Source::Said(snapshot)) = tree.as_ref().map(|tree| tree.source()) else {
            return;
        };
        if snapshot.key() != member.watch.key() {
            return;
        }
        member.watch.shows(&self.record.volume, snapshot).await;
        if let Some(position) = snapshot.position() {
            let uid = self.record.pod.uid.as_str();
            member.watch.acknowledge(position, uid);
        }
    }

    async fn swap_if_needed(&mut self) {
        if self.swapping.is_some() || self.swap_again > Instant::now() {
            return;
        }
        let Some(source) = self.desired() else { return };
        let Some(shown) = &mut self.shown else { return };
        let Some(swap) = shown.prepare(&source).await else {
            self.swap_trouble = None;
            return;
        };
        let (duty, volume) = (Arc::clone(&self.means.duty), self.record.volume.clone());
        let ordered = tokio::spawn(async move { duty.order(volume, swap).await });
        self.swapping = Some((source, ordered));
    }

    async fn swapped(&mut self, outcome: (Source, Result<(), DutyError>)) {
        let (source, outcome) = outcome;
        let Some(shown) = &self.shown else { return };
        let trouble = match outcome {
            Ok(()) if shown.settle(&source).await => None,
            Ok(()) => Some("csi reported a swap that did not happen".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        let Some(trouble) = trouble else {
            self.swap_trouble = None;
            self.backoff.reset();
            self.settled().await;
            return;
        };
        let pause = self.backoff.pause();
        warn!(volume = %self.record.volume, trouble, ?pause, "a version is not published yet");
        self.swap_trouble = Some(trouble);
        self.swap_again = Instant::now() + pause;
    }

    async fn ended(&mut self, how: End) -> Next {
        self.shown = None;
        self.swapping = None;
        match how {
            End::Closed => {
                info!(volume = %self.record.volume, "the kernel closed the volume's connection");
                self.detach_due = Some(Instant::now() + DETACH_WAIT);
            }
            End::Broken(failure) => {
                error!(volume = %self.record.volume, %failure, "the session broke");
                self.end_process("a session broke").await;
            }
        }
        Next::Live
    }

    /// The kernel closed the connection and csi did not detach: either csi died in the midst of
    /// an unpublish, or the mount was taken away under us.
    async fn not_detached(&mut self) -> Next {
        self.detach_due = None;
        let kept = self.means.keeper.descriptor(&self.record.volume).await;
        if matches!(kept, Ok(None)) {
            info!(volume = %self.record.volume, "the volume is gone");
            self.forget().await;
            return Next::End;
        }
        let reason = "a session ended while its volume is attached";
        error!(volume = %self.record.volume, reason);
        self.end_process(reason).await;
        Next::Live
    }

    async fn end_process(&self, reason: &str) {
        let reason = format!("volume {}: {reason}", self.record.volume);
        if self.means.fatal.send(reason).await.is_err() {
            debug!("the process ends already");
        }
    }

    async fn forget(&mut self) {
        if let Some(member) = self.member.take() {
            let volume = &self.record.volume;
            self.means.watches.leave(volume, &member.watch).await;
            if let Some(key) = binding_key(volume) {
                self.means.keeper.remove(key).await;
            }
        }
        info!(volume = %self.record.volume, "detached");
    }
}

async fn news(member: &mut Option<Member>) {
    let changed = match member {
        Some(member) => member.feed.changed().await,
        None => std::future::pending().await,
    };
    if changed.is_err() {
        // the watch has ended; nothing new can come
        std::future::pending::<()>().await;
    }
}

async fn outcome(swapping: &mut Option<(Source, Swapping)>) -> (Source, Result<(), DutyError>) {
    let Some((source, future)) = swapping else {
        return std::future::pending().await;
    };
    let outcome = future.await.unwrap_or(Err(DutyError::Lost));
    let source = source.clone();
    *swapping = None;
    (source, outcome)
}

async fn end(shown: &mut Option<Shown>) -> End {
    match shown {
        Some(shown) => (&mut shown.end).await.unwrap_or(End::Closed),
        None => std::future::pending().await,
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
