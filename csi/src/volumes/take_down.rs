//! Unpublish, and what a failed publish leaves: back to nothing, whatever is there.

use std::sync::Arc;

use vsecm_node_agent_api::{client::chain, target::Target, volume::VolumeId};

use super::{Trouble, Volumes, lock};
use crate::mount::Kubelet;

impl Volumes {
    /// Takes a volume away: twice, without a mount, with a dead server, with no peer at all. The
    /// only failure is a mount of ours that stays.
    pub(crate) async fn unpublish(
        self: &Arc<Self>,
        volume: VolumeId,
        target: Target,
    ) -> Result<(), Trouble> {
        let (this, lane) = (Arc::clone(self), self.lane(&volume));
        lane.cancel.cancel();
        let task = async move {
            let _turn = lane.turn.lock().await;
            if this.is_no_pair(&volume, &target) {
                tracing::warn!(%volume, %target, "volume and target are no pair: nothing is done");
                return Ok(());
            }
            this.clear(&volume, &target).await.inspect(|()| tracing::info!(%volume, "down"))
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
        lock(&self.state.held).remove(volume);
        let (detached, ()) = tokio::join!(self.agent.detach(volume), self.settle_later(volume));
        if let Err(error) = detached {
            // its successor learns of the volumes from the keeper, which has this one no more
            tracing::warn!(%volume, error = chain(&error), "node-agent is not told");
        }
        cleared
    }
}
