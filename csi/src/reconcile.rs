//! The keeper's side of what csi holds: read at the start, given back to a keeper that lost it,
//! and set right after every settle that failed.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::sleep;
use vsecm_node_agent_api::{
    channel::Connection,
    frame::Descriptor,
    volume::{VolumeId, VolumeRecord},
};

use crate::{
    deposit::{self, DepositError},
    status::chain,
    table::Held,
    volumes::Volumes,
};

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Waits for the keeper and takes all volumes from it whose target is still mounted: csi can be
/// killed at any moment and loses nothing ([I6]).
pub async fn recover(volumes: &Volumes) {
    let mut pause = FIRST_PAUSE;
    while let Err(error) = recover_once(volumes).await {
        tracing::warn!(error = chain(&error), "waiting for the keeper");
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn recover_once(volumes: &Volumes) -> Result<(), DepositError> {
    let keeper = volumes.deposit.dial().await?;
    for record in deposit::records(&keeper).await? {
        let held = fetch(&keeper, record).await?;
        if let Err(error) = volumes.readmit(held.clone()).await {
            // better one that is looked after in vain than one that is thrown away
            tracing::error!(volume = %held.record.volume, error = chain(&error), "cannot be looked at");
            volumes.table.insert(held);
        }
    }
    Ok(())
}

async fn fetch(keeper: &Connection, record: VolumeRecord) -> Result<Held, DepositError> {
    let fuse = deposit::descriptor(keeper, &record.volume, Descriptor::Fuse).await?;
    let writable = deposit::descriptor(keeper, &record.volume, Descriptor::Mount).await?;
    Ok(Held::new(record, fuse, writable))
}

/// Settles all volumes with every new keeper, and after every settle that failed; for ever.
pub async fn run(volumes: Arc<Volumes>) {
    let mut pause = FIRST_PAUSE;
    loop {
        match reconcile(&volumes).await {
            Ok(keeper) => {
                pause = FIRST_PAUSE;
                tokio::select! {
                    () = keeper.closed() => tracing::warn!("the keeper has gone"),
                    () = volumes.deposit.unsettled() => {}
                }
            }
            Err(error) => tracing::debug!(error = chain(&error), "keeper and csi do not agree yet"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn reconcile(volumes: &Volumes) -> Result<Connection, DepositError> {
    let keeper = volumes.deposit.dial().await?;
    let kept = deposit::records(&keeper).await?;
    let mut ids: BTreeSet<VolumeId> = kept.into_iter().map(|record| record.volume).collect();
    ids.extend(volumes.table.ids());
    for id in &ids {
        volumes.deposit.settle(&volumes.table, id).await?;
    }
    Ok(keeper)
}
