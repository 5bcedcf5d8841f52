//! Publish: from a record to a served mount at the target ([I3]).

use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use vsecm_node_agent_api::{frame::Serving, volume::VolumeRecord};

use super::Volumes;
use crate::{
    agent::{AgentError, Verdict},
    deposit::DepositError,
    flight::Lost,
    mount::{self, MountError, Occupant},
    status::chain,
    table::Held,
    target::{Target, TargetError},
};

/// Pauses between attempts while a peer is away. node-agent's supervisor takes milliseconds.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Why a volume is not up, or not down. All of it can heal, so the kubelet hears UNAVAILABLE and
/// comes again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpError {
    /// The hold is over.
    #[error("{reason}")]
    Waiting {
        /// What is missing and what to do.
        reason: String,
    },
    /// The pod's identity was taken away.
    #[error("{reason}")]
    Withdrawn {
        /// In words.
        reason: String,
    },
    /// An unpublish, or the end of this process, ended the wait.
    #[error("the wait was ended: the volume is being taken down, or the driver is stopping")]
    Cancelled,
    /// The content cannot be had.
    #[error("the content is not there")]
    Attach(#[source] AgentError),
    /// The volume is not served.
    #[error("the volume is not served")]
    Serve(#[source] AgentError),
    /// The descriptors are not safe yet.
    #[error("the descriptors cannot be deposited")]
    Deposit(#[source] DepositError),
    /// A mount operation failed.
    #[error("the mount failed")]
    Mount(#[source] MountError),
    /// Somebody else's mount is at the target.
    #[error("a mount of type {kind} is at the target already: unmount it")]
    Foreign {
        /// Its type.
        kind: String,
    },
    /// Another volume is there, or this one is elsewhere.
    #[error(
        "volume and target do not belong together: another publish has paired them otherwise; it ends with its unpublish"
    )]
    Taken,
    /// The superblock cannot be served again.
    #[error("the FUSE connection of the volume is dead: the pod must be restarted")]
    Dead,
    /// A record with a target that is none.
    #[error("the record's target cannot be used")]
    Target(#[source] TargetError),
    /// The task died.
    #[error(transparent)]
    Lost(#[from] Lost),
}

impl UpError {
    /// Whether a peer is away, or forgot what it had been told when it died: worth another attempt at once.
    fn passes(&self) -> bool {
        match self {
            Self::Attach(e) => !matches!(e, AgentError::Refused { .. }),
            Self::Serve(_) | Self::Dead => true,
            Self::Deposit(e) => !matches!(e, DepositError::Refused { .. }),
            _ => false,
        }
    }
}

impl Volumes {
    pub(super) async fn bring_up(
        &self,
        record: VolumeRecord,
        cancel: CancellationToken,
    ) -> Result<(), UpError> {
        let target: Target = record.target.parse().map_err(UpError::Target)?;
        let end = Instant::now() + self.hold;
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.attempt(&record, &target, end, &cancel).await {
                Ok(()) => return Ok(()),
                Err(error) if !error.passes() || Instant::now() + pause > end => return Err(error),
                Err(error) => error,
            };
            tracing::warn!(volume = %record.volume, error = chain(&error), "publish is tried again");
            tokio::select! {
                () = sleep(pause) => {}
                () = cancel.cancelled() => return Err(UpError::Cancelled),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn attempt(
        &self,
        record: &VolumeRecord,
        target: &Target,
        end: Instant,
        cancel: &CancellationToken,
    ) -> Result<(), UpError> {
        if self.keep_up(record, target).await? {
            return Ok(());
        }
        self.gate(record, end, cancel).await?;
        // from here to the end nothing waits for long, and nothing is cancelled half-way
        let done = self.set_up(record, target).await;
        if done.is_err() {
            self.forget(record, target).await;
        }
        done
    }

    /// True for a volume that is there already: it is never gated again, only served again. What
    /// can be served no more is cleared away.
    async fn keep_up(&self, record: &VolumeRecord, target: &Target) -> Result<bool, UpError> {
        let held = self.table.get(&record.volume);
        let recorded = held
            .as_ref()
            .is_none_or(|h| h.record.target == record.target);
        let owner = self.table.owner(&record.target);
        if !recorded || owner.is_some_and(|owner| owner != record.volume) {
            return Err(UpError::Taken);
        }
        let held = match (held, self.occupant(target).await?) {
            (_, Occupant::Foreign(kind)) => return Err(UpError::Foreign { kind }),
            (None, Occupant::Free) => return Ok(false),
            (Some(held), Occupant::Ours) => Some(held),
            (Some(_), Occupant::Free) => None,
            // csi and keeper lost it together; if node-agent still serves it, it is as good as ever
            (None, Occupant::Ours) => {
                let held = Held::new(record.clone(), None, None);
                self.table.insert(held.clone());
                Some(held)
            }
        };
        if let Some(held) = held {
            match self.serve_on(held, target).await {
                Ok(()) => return Ok(true),
                Err(UpError::Dead) => {}
                Err(error) => return Err(error),
            }
        }
        self.forget(record, target).await;
        Ok(false)
    }

    /// Has an attached volume served and its clone in place.
    pub(super) async fn serve_on(&self, held: Held, target: &Target) -> Result<(), UpError> {
        let volume = &held.record.volume;
        let fuse = held.fuse.as_deref();
        if fuse.is_some_and(|fuse| mount::is_dead(fuse.as_fd())) {
            return Err(UpError::Dead);
        }
        let state = self.agent.state(volume).await.map_err(UpError::Serve)?;
        match (state.serving, fuse) {
            (Serving::Yes, _) => {}
            (Serving::No, Some(fuse)) => {
                let resumed = self.agent.resume(&held.record, fuse).await;
                resumed.map_err(UpError::Serve)?;
                tracing::info!(%volume, "resumed");
            }
            (Serving::No, None) => return Err(UpError::Dead),
        }
        if held.writable.is_none() {
            let target = target.clone();
            let writable = self.on_kubelet(move |k| k.writable(&target)).await?;
            self.table.set_writable(volume, writable);
            self.settle_later(volume).await;
        }
        Ok(())
    }

    async fn gate(
        &self,
        record: &VolumeRecord,
        end: Instant,
        cancel: &CancellationToken,
    ) -> Result<(), UpError> {
        let hold = end.saturating_duration_since(Instant::now());
        let verdict = tokio::select! {
            verdict = self.agent.attach(record, hold) => verdict.map_err(UpError::Attach)?,
            () = cancel.cancelled() => return Err(UpError::Cancelled),
        };
        match verdict {
            Verdict::Ready => Ok(()),
            Verdict::Waiting(reason) => Err(UpError::Waiting { reason }),
            Verdict::Withdrawn(reason) => Err(UpError::Withdrawn { reason }),
        }
    }

    /// Serve, deposit, attach, clone, deposit: in this order, so that whatever the keeper has is
    /// initialised, and whatever is attached is served and deposited.
    async fn set_up(&self, record: &VolumeRecord, target: &Target) -> Result<(), UpError> {
        let volume = &record.volume;
        let mount::Detached { fuse, mount } = self.on_kubelet(|_| mount::superblock()).await?;
        self.agent
            .serve(volume, &fuse)
            .await
            .map_err(UpError::Serve)?;
        self.table
            .insert(Held::new(record.clone(), Some(fuse), None));
        self.settle(record).await?;
        let writable = self.attach(target, mount).await?;
        self.table.set_writable(volume, writable);
        self.settle(record).await?;
        // a node-agent that died meanwhile has a successor that does not know the volume
        if let Some(held) = self.table.get(volume) {
            self.serve_on(held, target).await?;
        }
        tracing::info!(%volume, pod = %record.pod.name, namespace = %record.pod.namespace, "published");
        Ok(())
    }

    async fn attach(&self, target: &Target, mount: OwnedFd) -> Result<OwnedFd, UpError> {
        let target = target.clone();
        self.on_kubelet(move |k| k.attach(&target, mount.as_fd()))
            .await
    }

    pub(super) async fn occupant(&self, target: &Target) -> Result<Occupant, UpError> {
        let target = target.clone();
        self.on_kubelet(move |k| k.occupant(&target)).await
    }

    async fn settle(&self, record: &VolumeRecord) -> Result<(), UpError> {
        let settled = self.deposit.settle(&self.table, &record.volume).await;
        settled.map_err(UpError::Deposit)
    }
}
