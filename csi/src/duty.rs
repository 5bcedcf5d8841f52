//! The duty connection: node-agent's orders, and a look at all volumes whenever it is new.

use std::{os::fd::AsFd, sync::Arc, time::Duration};

use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};
use vsecm_node_agent_api::{
    channel::{ChannelError, Connection},
    client::{FIRST_PAUSE, chain, persist},
    frame::{Order, OrderOutcome, OrderReply, sentence},
};

use crate::{
    swap::swap,
    volumes::{Held, Volumes},
};

/// Orders at work at most. node-agent has one per volume; the kubelet's default is 110 pods.
const ORDER_LIMIT: usize = 512;

/// A swap is a handful of operations on a tree in another process's memory: 0.3 ms. One that takes
/// this long hangs, and its thread is given up.
const SWAP_PATIENCE: Duration = Duration::from_secs(5);

/// Keeps a duty connection for ever.
pub(crate) async fn run(volumes: Arc<Volumes>) {
    loop {
        let duty = persist("node-agent has no duty for csi", || volumes.agent.duty()).await;
        tracing::info!("on duty for node-agent");
        let ended = tokio::select! {
            ended = obey(&volumes, Arc::new(duty)) => ended,
            never = look_after(&volumes) => never,
        };
        tracing::warn!(error = ended.err().map(|e| chain(&e)), "node-agent has gone");
        sleep(FIRST_PAUSE).await;
    }
}

/// Has every volume served that this node-agent does not serve yet; then there is nothing to do.
async fn look_after(volumes: &Arc<Volumes>) -> Result<(), ChannelError> {
    for volume in volumes.ids() {
        if let Err(error) = volumes.revive(&volume).await {
            tracing::error!(%volume, error = chain(&error), "is not served");
        }
    }
    std::future::pending().await
}

async fn obey(volumes: &Arc<Volumes>, connection: Arc<Connection>) -> Result<(), ChannelError> {
    let mut at_work: JoinSet<Result<(), ChannelError>> = JoinSet::new();
    loop {
        tokio::select! {
            order = connection.receive::<Order>(), if at_work.len() < ORDER_LIMIT => {
                let Some((order, _)) = order? else { return Ok(()) };
                let (connection, held) = (Arc::clone(&connection), volumes.held(&order.volume));
                at_work.spawn(async move {
                    let outcome = match held {
                        None => OrderOutcome::UnknownVolume,
                        Some(held) => carry_out(held, &order).await,
                    };
                    connection.send(&OrderReply { id: order.id, outcome }, &[]).await
                });
            }
            Some(sent) = at_work.join_next() => sent.unwrap_or(Ok(()))?,
        }
    }
}

async fn carry_out(held: Held, order: &Order) -> OrderOutcome {
    match swap_within(SWAP_PATIENCE, held, order).await {
        Ok(()) => OrderOutcome::Swapped,
        Err(reason) => {
            tracing::warn!(volume = %order.volume, %reason, "swap failed");
            OrderOutcome::Failed { reason: sentence(reason) }
        }
    }
}

pub(crate) async fn swap_within(
    patience: Duration,
    held: Held,
    order: &Order,
) -> Result<(), String> {
    let writable = held.writable.ok_or("the volume is not attached yet")?;
    let Ok(turn) = held.swapping.try_lock_owned() else {
        return Err("the swap before has not ended: its thread waits for an answer".to_owned());
    };
    let (publish, retire) = (order.publish.clone(), order.retire.clone());
    let work = spawn_blocking(move || {
        // kept until the thread is free again, however long the server lets it hang
        let _turn = turn;
        swap(writable.as_fd(), &publish, retire.as_ref())
    });
    match timeout(patience, work).await {
        Ok(Ok(swapped)) => swapped.map_err(|e| chain(&e)),
        Ok(Err(panic)) => Err(panic.to_string()),
        Err(_late) => Err(format!("no answer for {} s to an operation", patience.as_secs())),
    }
}
