//! What csi holds, held by the keeper too ([I6]).
//!
//! There is one operation, `settle`: make the keeper's entry of a volume what csi holds now. Settles
//! run one after another, and each looks in its turn; so after the last one the two agree, however
//! publish, unpublish and reconciliation cross. One that fails is made up for by the next
//! reconciliation, which comes at once or with the next keeper.

use std::{collections::BTreeSet, sync::Arc};

use tokio::time::{sleep, timeout};
use vsecm_node_agent_api::{
    channel::Connection,
    client::{AskError, FIRST_PAUSE, PATIENCE, chain, persist},
    frame::Descriptor,
    volume::VolumeId,
};

use super::{Held, Trouble, Volumes, each};
use crate::mount::{Kubelet, Occupant};

impl Volumes {
    pub(super) async fn settle(&self, volume: &VolumeId) -> Result<(), AskError> {
        let settled = timeout(PATIENCE, self.settle_in_turn(volume)).await;
        let late = |_| Err(AskError::Late(self.keeper.name));
        settled.unwrap_or_else(late).inspect_err(|_| self.state.unsettled.notify_one())
    }

    pub(super) async fn settle_later(&self, volume: &VolumeId) {
        if let Err(error) = self.settle(volume).await {
            tracing::warn!(%volume, error = chain(&error), "the keeper is told later");
        }
    }

    async fn settle_in_turn(&self, volume: &VolumeId) -> Result<(), AskError> {
        let _turn = self.state.settling.lock().await;
        let keeper = self.keeper.dial().await?;
        let Some(Held { record, fuse, writable, .. }) = self.held(volume) else {
            return self.keeper.remove_volume(&keeper, volume).await;
        };
        for (which, fd) in [(Descriptor::Fuse, fuse), (Descriptor::Mount, writable)] {
            if let Some(fd) = fd {
                self.keeper.put_volume(&keeper, &record, which, &fd).await?;
            }
        }
        Ok(())
    }

    /// Waits for the keeper and takes all volumes from it: csi can be killed at any moment and
    /// loses nothing ([I6]).
    pub(crate) async fn recover(self: &Arc<Self>) {
        persist("waiting for the keeper", || self.recover_once()).await;
        self.recovered.cancel();
    }

    async fn recover_once(self: &Arc<Self>) -> Result<(), AskError> {
        let keeper = self.keeper.dial().await?;
        let mut taken = Vec::new();
        for record in self.keeper.records(&keeper).await? {
            let volume = record.volume.clone();
            let fuse = self.keeper.descriptor(&keeper, &volume, Descriptor::Fuse).await?;
            let writable = self.keeper.descriptor(&keeper, &volume, Descriptor::Mount).await?;
            let held = Held { writable: writable.map(Arc::new), ..Held::new(record, fuse) };
            taken.push(held);
        }
        each(taken, |held| {
            let (this, volume) = (Arc::clone(self), held.record.volume.clone());
            async move {
                if let Err(error) = this.readmit(held).await {
                    tracing::error!(%volume, error = chain(&error), "cannot be taken over in full");
                }
            }
        })
        .await;
        Ok(())
    }

    /// Holds a volume again, if it is still mounted; forgets it everywhere else.
    async fn readmit(&self, held: Held) -> Result<(), Trouble> {
        let (volume, lost) = (held.record.volume.clone(), held.writable.is_none());
        let target = held.record.target.parse()?;
        // first of all: better to look after one in vain than to throw one away
        self.hold_on(held);
        if self.at(&target, Kubelet::occupant).await? != Occupant::Ours {
            tracing::info!(%volume, "is mounted no more: forgotten");
            self.forget(&volume, &target).await;
        } else if lost {
            self.set_writable(&volume, self.at(&target, Kubelet::writable).await?);
        }
        Ok(())
    }

    /// Settles all volumes with every new keeper, and after every settle that failed; for ever.
    pub(crate) async fn stay_settled(self: Arc<Self>) {
        loop {
            let keeper = persist("csi and keeper do not agree", || self.reconcile()).await;
            tokio::select! {
                () = keeper.closed() => tracing::warn!("the keeper has gone"),
                () = self.state.unsettled.notified() => {}
            }
            sleep(FIRST_PAUSE).await;
        }
    }

    async fn reconcile(&self) -> Result<Connection, AskError> {
        let keeper = self.keeper.dial().await?;
        let kept = self.keeper.records(&keeper).await?;
        let mut ids: BTreeSet<VolumeId> = kept.into_iter().map(|record| record.volume).collect();
        ids.extend(self.ids());
        for volume in &ids {
            self.settle(volume).await?;
        }
        Ok(keeper)
    }
}
