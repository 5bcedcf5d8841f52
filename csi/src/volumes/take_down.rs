//! Unpublish, and what a failed publish leaves: back to nothing, whatever is there.

use vsecm_node_agent_api::{client::chain, target::Target, volume::VolumeId};

use super::{Trouble, Volumes, lock};
use crate::mount::Kubelet;

impl Volumes {
    /// Takes a volume away: twice, without a mount, with a dead server, with no peer at all. The
    /// only failure is a mount of ours that stays.
    pub(super) async fn take_down(
        &self,
        volume: &VolumeId,
        target: &Target,
    ) -> Result<(), Trouble> {
        if self.is_no_pair(volume, target) {
            tracing::warn!(%volume, %target, "volume and target are not a pair: nothing is done");
            return Ok(());
        }
        self.clear(volume, target).await?;
        tracing::info!(%volume, "down");
        Ok(())
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
