//! The task that owns one volume.

use std::{
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::{debug, info};
use vsecm_node_agent_api::{
    frame::{Bind, Serving as IsServing},
    volume::{Audit as Auditing, Gate as Gating, InodeKey, VersionDir, VolumeRecord},
};
use vsecm_safe_api::name::SecretKey;

use self::progress::{Now, Progress, stage};
use super::{
    Means,
    binding::{Access, Binding, Bound, binding_key},
    reason::{self, Age, Reason},
    shown::Shown,
};
use crate::{
    backoff::Backoff,
    duty::DutyError,
    filesystem::Observers,
    identity::{Issue, Past, Standing},
    session::{End, Start},
    snapshot::Content,
    tree::{self, Nothing, Source},
    wait::Wait,
    watch::{Feed, Watch},
};

mod progress;
mod retiring;
mod serving;
mod staleness;
mod standing;

/// Unpublish unmounts before it detaches: in between the session has ended rightly.
const DETACH_WAIT: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 10_000 });

/// How often versions that nobody reads any more are looked for.
const PRUNE: Duration = Duration::from_secs(15);

/// What the task is told.
pub(super) enum Command {
    /// Serve on this descriptor, with the key of the record that is deposited with it.
    Serve {
        descriptor: OwnedFd,
        start: Start,
        inode_key: InodeKey,
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// Forget the volume.
    Detach { reply: oneshot::Sender<()> },
}

/// Whether the volume may be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// Not yet, and why.
    Waiting(Reason),
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
    /// Since when it is not fresh, if it is not.
    pub(super) stale_since: Instant,
    pub(super) serving: IsServing,
    /// Whether the pod has an identity.
    pub(super) identity: Held,
    /// Why it is not fresh.
    pub(super) conditions: Vec<Reason>,
    /// Whose secret the pod gets, once that is known.
    pub(super) secret: Option<SecretKey>,
    /// Whether readers see what Safe said.
    pub(super) shows: bool,
    /// What a pod that runs without its secret lacks.
    pub(super) lacks: Option<Reason>,
    /// When it was asked for first.
    pub(super) since: SystemTime,
    pub(super) bytes: u64,
    pub(super) files: u64,
    /// How far it is.
    pub(super) progress: Progress,
}

/// Whether a pod holds an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    None,
    Current(SystemTime),
    Withdrawn,
}

impl Status {
    /// The conditions in one sentence.
    pub(super) fn condition(&self) -> Option<String> {
        let sentences: Vec<_> = self.conditions.iter().map(|part| &*part.sentence).collect();
        (!sentences.is_empty()).then(|| sentences.join("; "))
    }
}

impl Default for Status {
    fn default() -> Self {
        let reason = Reason::new(Wait::Starting, "nothing is known of the volume yet");
        Self {
            gate: Gate::Waiting(reason),
            has_content: false,
            stale_since: Instant::now(),
            serving: IsServing::No,
            identity: Held::None,
            conditions: Vec::new(),
            secret: None,
            shows: false,
            lacks: None,
            since: SystemTime::now(),
            bytes: 0,
            files: 0,
            progress: Progress::default(),
        }
    }
}

struct Member {
    watch: Arc<Watch>,
    feed: watch::Receiver<Feed>,
}

/// What the pod saw under an identity that stood for another secret.
struct Former {
    member: Member,
    seen: Source,
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

/// What csi is doing for the volume: one thing at a time.
enum Errand {
    /// It swaps to this.
    Swap(Source, JoinHandle<Result<(), DutyError>>),
    /// It removes these folders, and tells what mounts show.
    Retire(Vec<VersionDir>, JoinHandle<Result<Vec<Bind>, DutyError>>),
}

/// What came of it.
enum Outcome {
    Swap(Source, Result<(), DutyError>),
    Retire(Vec<VersionDir>, Result<Vec<Bind>, DutyError>),
}

pub(super) struct Owner {
    record: VolumeRecord,
    means: Arc<Means>,
    observers: Observers,
    commands: mpsc::Receiver<Command>,
    status: watch::Sender<Status>,
    news_of_identity: watch::Receiver<Standing>,
    /// What was acted upon.
    standing: Standing,
    since: SystemTime,
    /// Whether the pod has seen content: what it has is not taken from it for a second identity.
    has_begun: bool,
    member: Option<Member>,
    /// It stays until the secret of `member` has content.
    former: Option<Former>,
    updates: Updates,
    /// It began with what Safe could not be asked about, and still cannot.
    has_begun_unconfirmed: bool,
    shown: Option<Shown>,
    /// When a session that ended must have been detached.
    detach_due: Option<Instant>,
    /// What a successor knows of it.
    access: Access,
    bound: Bound,
    errand: Option<Errand>,
    /// When csi is asked what mounts show, and to remove what they do not.
    retire_due: Option<Instant>,
    /// Until when mounts of what was replaced may still be made.
    bind_until: Instant,
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
        past: Past,
        commands: mpsc::Receiver<Command>,
    ) -> (Self, watch::Receiver<Status>) {
        let is_audited = record.options.audit == Auditing::Opens;
        let observers = Observers {
            requests: Arc::clone(&means.requests),
            opens: is_audited.then(|| means.audit.recorder(&record.volume, &record.pod)),
        };
        let mut owner = Self {
            news_of_identity: means.identities.follow(&record.pod, past),
            standing: Standing::default(),
            since: SystemTime::now(),
            has_begun: past == Past::Issued,
            record,
            observers,
            commands,
            status: watch::Sender::default(),
            member: None,
            former: None,
            updates: Updates::Flow,
            has_begun_unconfirmed: false,
            shown: None,
            detach_due: None,
            access: binding.map_or(Access::Granted, |binding| binding.access),
            bound: binding.map(|binding| binding.bound.clone()).unwrap_or_default(),
            errand: None,
            retire_due: None,
            bind_until: Instant::now(),
            swap_trouble: None,
            swap_again: Instant::now(),
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(5)),
            means,
        };
        if let Some(binding) = binding {
            owner.is_called(&binding.actor);
            owner.join(&binding.key, None);
            // until the pod is issued its own identity again it sees what was left for it
            owner.updates = match binding.access {
                Access::Granted => Updates::Stopped(owner.newest()),
                Access::Stopped(sequence) => Updates::Stopped(owner.version(sequence)),
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
            self.leave_former_if_due().await;
            self.withdraw_if_due().await;
            self.swap_if_needed();
            self.retire_if_due();
            let since = self.feed().and_then(|feed| feed.word.unconfirmed_since());
            self.has_begun_unconfirmed &= since.is_some();
            self.tell();
            let next = tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    // the process ends: what is at the keeper is its successor's
                    None => Next::End,
                },
                Ok(()) = self.news_of_identity.changed() => {
                    self.take_standing().await;
                    Next::Live
                }
                () = news(&mut self.member) => {
                    // the time until it is shown begins now
                    self.tell();
                    Next::Live
                }
                outcome = outcome(&mut self.errand) => {
                    match outcome {
                        Outcome::Swap(source, outcome) => self.swapped(source, outcome).await,
                        Outcome::Retire(dirs, outcome) => self.retired(dirs, outcome).await,
                    }
                    Next::Live
                }
                () = sleep_until(self.swap_again), if self.swap_trouble.is_some() && self.errand.is_none() => Next::Live,
                () = due(self.retire_due), if self.errand.is_none() => Next::Live,
                Ok(()) = arrivals.changed() => {
                    self.swap_again = Instant::now();
                    self.backoff.reset();
                    self.retire_due = self.retire_due.map(|_later| Instant::now());
                    Next::Live
                }
                how = end(&mut self.shown) => self.ended(how).await,
                () = due(self.detach_due) => self.not_detached().await,
                _tick = prune.tick() => {
                    self.sweep().await;
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

    /// The version with that sequence.
    fn version(&self, sequence: u64) -> Option<Source> {
        let versions = self.member.as_ref()?.watch.versions();
        let version = versions.into_iter().find(|v| v.sequence() == sequence);
        version.map(Source::Said)
    }

    /// What the pod is to see.
    fn desired(&self) -> Option<Source> {
        let optional = || {
            let is_optional = self.record.options.gate == Gating::Optional;
            is_optional.then_some(Source::Nothing(Nothing::NotYet))
        };
        let former = self.former.as_ref().map(|former| self.unless_over(&former.seen));
        // whose secret it is to see is not known, or not whether Safe still stands by it
        let may_start = || self.feed().is_none_or(|feed| feed.may_start());
        let is_held = !self.has_begun && (self.standing.is_contested || !may_start());
        match &self.updates {
            Updates::Revoked => Some(Source::Nothing(Nothing::Revoked)),
            Updates::Stopped(source) => {
                source.as_ref().map(|source| self.unless_over(source)).or_else(optional)
            }
            // also if the secret has content since a moment: a successor must know of it first
            Updates::Flow => {
                let newest = || if is_held { None } else { self.newest() };
                former.or_else(newest).or_else(optional)
            }
        }
    }

    /// What a pod without news keeps, up to the end that Safe gave it.
    fn unless_over(&self, source: &Source) -> Source {
        let is_over = match source {
            Source::Said(snapshot) => snapshot.ended(SystemTime::now()).is_some(),
            Source::Nothing(_) => false,
        };
        if !is_over {
            return source.clone();
        }
        match self.newest() {
            Some(Source::Said(newest)) if matches!(newest.content(), Content::Removed { .. }) => {
                Source::Said(newest)
            }
            _ => Source::Nothing(Nothing::Revoked),
        }
    }

    fn gate(&self, standing: &Standing, feed: Option<&Feed>) -> Gate {
        let holds_document = feed
            .filter(|feed| feed.may_start())
            .and_then(|feed| feed.snapshot.as_ref())
            .is_some_and(|snapshot| matches!(snapshot.content(), Content::Document { .. }));
        let is_optional = self.record.options.gate == Gating::Optional;
        match &standing.issue {
            _ if self.shown.is_some() => Gate::Ready,
            Issue::Withdrawn => Gate::Withdrawn(reason::withdrawn(&self.record.pod)),
            _ if is_optional => Gate::Ready,
            Issue::Issued(_) if holds_document && !standing.is_contested => {
                feed.and_then(|feed| self.without_keys(feed)).map_or(Gate::Ready, Gate::Waiting)
            }
            _ => {
                let key = self.member.as_ref().map(|member| member.watch.key());
                let namespace = &self.means.sentinel;
                Gate::Waiting(reason::waiting(&self.record.pod, standing, key.zip(feed), namespace))
            }
        }
    }

    /// Why what Safe said is not enough to begin with: the volume's items name more.
    fn without_keys(&self, feed: &Feed) -> Option<Reason> {
        let snapshot = feed.snapshot.as_ref()?;
        let missing = tree::missing(snapshot, &self.record.options);
        (!missing.is_empty()).then(|| reason::without_keys(snapshot, &missing))
    }

    fn tell(&self) {
        let standing = &self.standing;
        let feed = self.feed();
        let tree = self.shown.as_ref().and_then(Shown::tree);
        let shows = tree.as_ref().is_some_and(|tree| matches!(tree.source(), Source::Said(_)));
        let key = self.member.as_ref().map(|member| member.watch.key());
        let lacks = (self.shown.is_some() && !shows).then(|| {
            reason::waiting(
                &self.record.pod,
                standing,
                key.zip(feed.as_ref()),
                &self.means.sentinel,
            )
        });
        let missing = match (self.record.options.gate, &tree) {
            (Gating::Required, Some(tree)) => tree.missing(),
            (Gating::Required, None) | (Gating::Optional, _) => &[],
        };
        let gate = self.gate(standing, feed.as_ref());
        let serving = match self.shown {
            Some(_) => IsServing::Yes,
            None => IsServing::No,
        };
        let desired = self.desired();
        let (progress, took) = self.status.borrow().progress.after(Now {
            at: Instant::now(),
            stage: stage(serving, &gate),
            revision: tree.as_ref().and_then(|tree| tree.source().revision()),
            is_behind: tree
                .as_ref()
                .zip(desired.as_ref())
                .is_some_and(|(tree, desired)| tree.source().id() != desired.id()),
        });
        if let Some(took) = took {
            self.means.times.swap.observe(took.as_secs_f64());
        }
        let status = Status {
            gate,
            has_content: desired.is_some(),
            serving,
            progress,
            stale_since: self.status.borrow().known_stale_since(),
            identity: match &standing.issue {
                Issue::NotYet => Held::None,
                Issue::Issued(identity) => Held::Current(identity.expires),
                Issue::Withdrawn => Held::Withdrawn,
            },
            conditions: reason::condition(
                &self.record.pod,
                standing,
                feed.as_ref(),
                missing,
                self.swap_trouble.as_deref(),
                self.age(feed.as_ref()),
            ),
            secret: key.map(|key| key.secret.clone()),
            shows,
            lacks,
            since: self.since,
            bytes: tree.as_ref().map_or(0, |tree| tree.size() as u64),
            files: tree.as_ref().map_or(0, |tree| tree.files().len() as u64),
        };
        self.status.send_replace(status);
        self.means.reports.changed();
    }

    /// How old Safe's word is.
    fn age(&self, feed: Option<&Feed>) -> Age {
        let since = feed.and_then(|feed| feed.word.unconfirmed_since());
        match since {
            Some(since) if self.has_begun_unconfirmed => Age::BegunWith(since),
            Some(since) => Age::Since(since),
            None => Age::New,
        }
    }

    async fn obey(&mut self, command: Command) -> Next {
        match command {
            Command::Serve { descriptor, start, inode_key, reply } => {
                if self.shown.is_none() {
                    self.record.inode_key = inode_key;
                }
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

    async fn forget(&mut self) {
        self.means.reports.gone(&self.record.volume);
        if let Some(former) = self.former.take() {
            let volume = &self.record.volume;
            self.means.watches.leave(volume, &former.member.watch).await;
        }
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

async fn outcome(errand: &mut Option<Errand>) -> Outcome {
    let outcome = match errand {
        None => return std::future::pending().await,
        Some(Errand::Swap(source, swapping)) => {
            let outcome = swapping.await.unwrap_or(Err(DutyError::Lost));
            Outcome::Swap(source.clone(), outcome)
        }
        Some(Errand::Retire(dirs, retiring)) => {
            let outcome = retiring.await.unwrap_or(Err(DutyError::Lost));
            Outcome::Retire(std::mem::take(dirs), outcome)
        }
    };
    *errand = None;
    outcome
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
