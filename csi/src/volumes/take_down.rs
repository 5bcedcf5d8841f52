//! Unpublish, and what a failed publish leaves: back to nothing, whatever is there.

use vsecm_node_agent_api::volume::{VolumeId, VolumeRecord};

use super::{UpError, Volumes};
use crate::{status::chain, target::Target};

impl Volumes {
    /// Takes a volume away: twice, without a mount, with a dead server, with no peer at all. The
    /// only failure is a mount of ours that stays.
    pub(super) async fn take_down(&self, volume: VolumeId, target: Target) -> Result<(), UpError> {
        let path = target.to_string();
        if self.table.owner(&path).is_some_and(|owner| owner != volume) {
            tracing::warn!(%volume, %target, "another volume is there: nothing is taken away");
            return Ok(());
        }
        if self
            .table
            .get(&volume)
            .is_some_and(|held| held.record.target != path)
        {
            tracing::warn!(%volume, %target, "the volume is elsewhere: nothing is taken away");
            return Ok(());
        }
        self.clear(&volume, &target).await?;
        tracing::info!(%volume, "unpublished");
        Ok(())
    }

    /// Undoes what has been done for a volume.
    pub(super) async fn forget(&self, record: &VolumeRecord, target: &Target) {
        if let Err(error) = self.clear(&record.volume, target).await {
            tracing::warn!(volume = %record.volume, error = chain(&error), "the target is not clear");
        }
    }

    async fn clear(&self, volume: &VolumeId, target: &Target) -> Result<(), UpError> {
        let here = target.clone();
        let cleared = self.on_kubelet(move |kubelet| kubelet.clear(&here)).await;
        self.table.remove(volume);
        let ((), detached) = tokio::join!(self.settle_later(volume), self.agent.detach(volume));
        if let Err(error) = detached {
            // the next node-agent learns of it from the keeper, which knows the volume no more
            tracing::warn!(%volume, error = chain(&error), "node-agent is not told");
        }
        cleared
    }

    /// Settles; what cannot be done now is done when the keeper is back.
    pub(super) async fn settle_later(&self, volume: &VolumeId) {
        if let Err(error) = self.deposit.settle(&self.table, volume).await {
            tracing::warn!(%volume, error = chain(&error), "the keeper is told later");
        }
    }
}
