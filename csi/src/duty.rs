//! The duty connection: node-agent's orders, and a look at all volumes whenever it is new.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::sleep};
use vsecm_node_agent_api::{
    channel::{ChannelError, Connection},
    frame::{Order, OrderOutcome, OrderReply},
};

use crate::{status::chain, volumes::Volumes};

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Orders at work at most. node-agent has one per volume; the kubelet's default is 110 pods.
const ORDER_LIMIT: usize = 512;

/// Keeps a duty connection for ever.
pub async fn run(volumes: Arc<Volumes>) {
    let mut pause = FIRST_PAUSE;
    loop {
        match volumes.agent.duty().await {
            Ok(connection) => {
                tracing::info!("on duty for node-agent");
                pause = FIRST_PAUSE;
                let ended = tokio::select! {
                    ended = obey(&volumes, Arc::new(connection)) => ended,
                    never = look_after(&volumes) => never,
                };
                match ended {
                    Ok(()) => tracing::warn!("node-agent has gone"),
                    Err(error) => tracing::warn!(error = chain(&error), "duty ended"),
                }
            }
            Err(error) => {
                tracing::debug!(error = chain(&error), "no duty");
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Has every volume served that this node-agent does not serve yet; then there is nothing to do.
async fn look_after(volumes: &Arc<Volumes>) -> Result<(), ChannelError> {
    for volume in volumes.table.ids() {
        if let Err(error) = volumes.revive(&volume).await {
            tracing::error!(%volume, error = chain(error.as_ref()), "is not served");
        }
    }
    std::future::pending().await
}

async fn obey(volumes: &Arc<Volumes>, connection: Arc<Connection>) -> Result<(), ChannelError> {
    let mut at_work: JoinSet<Result<(), ChannelError>> = JoinSet::new();
    loop {
        tokio::select! {
            order = connection.receive::<Order>(), if at_work.len() < ORDER_LIMIT => {
                let Some((order, _none)) = order? else { return Ok(()) };
                let (volumes, connection) = (Arc::clone(volumes), Arc::clone(&connection));
                at_work.spawn(async move {
                    let outcome = volumes.obey(&order).await;
                    if let OrderOutcome::Failed { reason } = &outcome {
                        tracing::warn!(volume = %order.volume, %reason, "swap failed");
                    }
                    connection.send(&OrderReply { id: order.id, outcome }, &[]).await
                });
            }
            Some(sent) = at_work.join_next() => sent.unwrap_or(Ok(()))?,
        }
    }
}
