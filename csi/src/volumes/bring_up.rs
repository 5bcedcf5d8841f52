//! Publish: from a record to a served mount at the target ([I3]).

use std::os::fd::{AsFd, OwnedFd};

use tokio::time::{Instant, sleep};
use vsecm_node_agent_api::{
    client::{AskError, chain, pauses},
    frame::{AgentRequest, Serving},
    target::Target,
    volume::{VolumeId, VolumeRecord},
};

use super::{Held, Lane, Trouble, Volumes, lock};
use crate::mount::{self, Detached, Kubelet, Occupant};

impl Volumes {
    /// Tries until the lane's `end` for as long as only a peer is missing.
    pub(super) async fn bring_up(&self, record: &VolumeRecord, lane: &Lane) -> Result<(), Trouble> {
        for pause in pauses() {
            let error = match self.attempt(record, lane).await {
                Err(error @ (Trouble::Peer(_) | Trouble::Dead)) => error,
                done => return done,
            };
            if Instant::now() + pause > lane.end {
                return Err(error);
            }
            tracing::warn!(volume = %record.volume, error = chain(&error), "publish: once more");
            let Some(()) = lane.cancel.run_until_cancelled(sleep(pause)).await else { break };
        }
        Err(Trouble::Cancelled)
    }

    async fn attempt(&self, record: &VolumeRecord, lane: &Lane) -> Result<(), Trouble> {
        let target: Target = record.target.parse()?;
        if let Some(held) = self.find(record, &target).await? {
            match self.serve_on(&held).await {
                Err(Trouble::Dead) => self.forget(&record.volume, &target).await,
                done => return done,
            }
        }
        // what is wrong with the way there is said at once, not after the wait
        self.at(&target, Kubelet::reach).await?;
        let gate = self.gate(record, lane.end);
        lane.cancel.run_until_cancelled(gate).await.ok_or(Trouble::Cancelled)??;
        // from here to the end nothing waits for long, and nothing is cancelled half-way
        let done = self.set_up(record, &target).await;
        if done.is_err() {
            self.forget(&record.volume, &target).await;
        }
        done
    }

    /// The volume, if it is there already: then it is never gated again, only served again.
    async fn find(&self, record: &VolumeRecord, target: &Target) -> Result<Option<Held>, Trouble> {
        if self.is_no_pair(&record.volume, target) {
            return Err(Trouble::Occupied("another volume".to_owned()));
        }
        let held = self.held(&record.volume);
        match (self.at(target, Kubelet::occupant).await?, held) {
            (Occupant::Foreign(kind), _) => Err(Trouble::Occupied(format!("a {kind} mount"))),
            (Occupant::Ours, Some(held)) => Ok(Some(held)),
            (Occupant::Ours, None) => {
                // csi and keeper lost it together; if it is still served, it is as good as ever
                self.hold_on(Held::new(record.clone(), None));
                Ok(self.held(&record.volume))
            }
            (Occupant::Free, Some(_)) => {
                self.forget(&record.volume, target).await;
                Ok(None)
            }
            (Occupant::Free, None) => Ok(None),
        }
    }

    /// Has an attached volume served and its clone in place.
    pub(super) async fn serve_on(&self, held: &Held) -> Result<(), Trouble> {
        let (record, fuse) = (held.record.clone(), held.fuse.as_deref());
        let volume = record.volume.clone();
        if fuse.is_some_and(|fuse| mount::is_dead(fuse.as_fd())) {
            return Err(Trouble::Dead);
        }
        if self.state_of(held).await?.serving == Serving::No {
            let fuse = fuse.ok_or(Trouble::Dead)?;
            self.agent.serve(&AgentRequest::Resume { record }, fuse).await?;
            tracing::info!(%volume, "resumed");
        }
        if held.writable.is_none() {
            let writable = self.at(&held.record.target.parse()?, Kubelet::writable).await?;
            self.set_writable(&volume, writable);
            self.settle_later(&volume).await;
        }
        Ok(())
    }

    async fn gate(&self, record: &VolumeRecord, end: Instant) -> Result<(), Trouble> {
        let hold = end.saturating_duration_since(Instant::now());
        match self.agent.attach(record, hold).await {
            Ok(None) => Ok(()),
            Ok(Some(reason)) => Err(Trouble::NotYet(reason)),
            Err(refused @ AskError::Refused(..)) => Err(Trouble::NotYet(refused.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    /// Serve, deposit, attach, clone, deposit: in this order, so that whatever the keeper has is
    /// initialised, and whatever is attached is served and deposited.
    async fn set_up(&self, record: &VolumeRecord, target: &Target) -> Result<(), Trouble> {
        let volume = &record.volume;
        let label = self.label.clone();
        let made = self.at(target, move |_, _| mount::superblock(label.as_ref()));
        let Detached { fuse, mount } = made.await?;
        let inode_key = record.inode_key;
        self.agent.serve(&AgentRequest::Serve { volume: volume.clone(), inode_key }, &fuse).await?;
        self.hold_on(Held::new(record.clone(), Some(fuse)));
        self.settle(volume).await?;
        let writable = self.at(target, move |k, target| k.attach(target, mount.as_fd())).await?;
        self.set_writable(volume, writable);
        self.settle(volume).await?;
        // a node-agent that died meanwhile has a successor that does not know the volume
        self.serve_on(&self.held(volume).ok_or(Trouble::Cancelled)?).await?;
        tracing::info!(%volume, namespace = %record.pod.namespace, pod = %record.pod.name, "up");
        Ok(())
    }

    pub(super) fn set_writable(&self, volume: &VolumeId, fd: OwnedFd) {
        if let Some(held) = lock(&self.state.held).get_mut(volume) {
            held.writable = Some(fd.into());
        }
    }
}
