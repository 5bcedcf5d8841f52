//! Unpublish, and what a failed publish leaves: back to nothing, whatever is there.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use tokio::task::spawn_blocking;
use vsecm_node_agent_api::{client::chain, target::Target, volume::VolumeId};

use super::{RECOVERY, Trouble, Volumes, lock};
use crate::mount::{Kubelet, control::Connection};

impl Volumes {
    /// Takes a volume away: twice, without a mount, with a dead server, with no peer at all. The
    /// only failure is a mount of ours that stays.
    pub(crate) async fn unpublish(
        self: &Arc<Self>,
        volume: VolumeId,
        target: Target,
    ) -> Result<(), Trouble> {
        self.wait_for_recovery(RECOVERY).await?;
        let (this, lane) = (Arc::clone(self), self.lane(&volume));
        lane.cancel.cancel();
        let task = async move {
            let _turn = lane.turn.lock().await;
            if this.is_no_pair(&volume, &target) {
                tracing::warn!(%volume, %target, "volume and target are no pair: nothing is done");
                return Ok(());
            }
            this.clear(&volume, &target).await?;
            lock(&this.state.claims).release(&volume);
            tracing::info!(%volume, "down");
            Ok(())
        };
        self.tasks.spawn(task).await?
    }

    /// Undoes what has been done for a volume.
    pub(super) async fn forget(&self, volume: &VolumeId, target: &Target) {
        if let Err(error) = self.clear(volume, target).await {
            tracing::warn!(%volume, error = chain(&error), "the target is not clear");
        }
    }

    async fn clear(&self, volume: &VolumeId, target: &Target) -> Result<(), Trouble> {
        let cleared = self.at(target, Kubelet::clear).await;
        let held = lock(&self.state.held).remove(volume);
        let (detached, ()) = tokio::join!(self.agent.detach(volume), self.settle_later(volume));
        if let Err(error) = detached {
            // its successor learns of the volumes from the keeper, which has this one no more
            tracing::warn!(%volume, error = chain(&error), "node-agent is not told");
        }
        // not before it is unmounted
        self.abort(volume, cleared?, held.and_then(|held| held.writable)).await;
        Ok(())
    }

    /// Ends the connections of what was unmounted: a mount namespace that has copied the mount
    /// would keep node-agent's thread for ever.
    async fn abort(
        &self,
        volume: &VolumeId,
        mut unmounted: Vec<Connection>,
        writable: Option<Arc<OwnedFd>>,
    ) {
        let Some(control) = self.control.clone() else { return };
        let aborted = spawn_blocking(move || {
            // a csi that died between umount and abort left nothing in mountinfo
            if unmounted.is_empty()
                && let Some(writable) = writable
            {
                unmounted.extend(Connection::of_detached(writable.as_fd())?);
            }
            unmounted.iter().try_for_each(|connection| control.abort(connection))
        });
        let failed = match aborted.await {
            Ok(aborted) => aborted.err().map(|error| chain(&error)),
            Err(panic) => Some(panic.to_string()),
        };
        if let Some(error) = failed {
            tracing::warn!(%volume, error, "the connection is not aborted");
        }
    }
}
