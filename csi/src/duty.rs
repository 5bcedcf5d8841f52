//! The duty connection: node-agent's orders, and a look at all volumes whenever it is new.

use std::{
    mem,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};
use vsecm_node_agent_api::{
    channel::{ChannelError, Connection},
    client::{FIRST_PAUSE, chain, pauses, persist},
    frame::{Order, OrderOutcome, OrderReply, Step, sentence},
};

use crate::{
    mount::Kubelet,
    swap::{SwapError, publish, retire},
    volumes::{Held, Trouble, Volumes, each, lock},
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

/// Has every volume served that this node-agent does not serve yet. One that cannot be served now
/// (its content has to come from Safe first) is tried again; then there is nothing to do.
async fn look_after(volumes: &Arc<Volumes>) -> Result<(), ChannelError> {
    let left = Arc::new(Mutex::new(volumes.ids()));
    for pause in pauses() {
        let now = mem::take(&mut *lock(&left));
        each(now, |volume| {
            let (volumes, left) = (Arc::clone(volumes), Arc::clone(&left));
            async move {
                let Err(error) = volumes.revive(&volume).await else { return };
                tracing::warn!(%volume, error = chain(&error), "is not served");
                if !matches!(error, Trouble::Dead) {
                    lock(&left).push(volume);
                }
            }
        })
        .await;
        if lock(&left).is_empty() {
            break;
        }
        sleep(pause).await;
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
                let kubelet = Arc::clone(&volumes.kubelet);
                at_work.spawn(async move {
                    let Order { id, volume, step } = order;
                    let outcome = carry_out(SWAP_PATIENCE, kubelet, held, step).await;
                    if let OrderOutcome::Failed { reason } = &outcome {
                        tracing::warn!(%volume, reason, "an order failed");
                    }
                    connection.send(&OrderReply { id, outcome }, &[]).await
                });
            }
            Some(sent) = at_work.join_next() => sent.unwrap_or(Ok(()))?,
        }
    }
}

pub(crate) async fn carry_out(
    patience: Duration,
    kubelet: Arc<Kubelet>,
    held: Option<Held>,
    step: Step,
) -> OrderOutcome {
    let failed = |reason: String| OrderOutcome::Failed { reason: sentence(reason) };
    let Some(held) = held else { return OrderOutcome::UnknownVolume };
    let Some(writable) = held.writable else {
        return failed("the volume is not attached yet".to_owned());
    };
    let Ok(turn) = held.swapping.try_lock_owned() else {
        return failed("the swap before has not ended: its thread waits for an answer".to_owned());
    };
    let work = spawn_blocking(move || {
        // kept until the thread is free again, however long the server lets it hang
        let _turn = turn;
        take(&step, &kubelet, writable.as_fd())
    });
    match timeout(patience, work).await {
        Ok(Ok(Ok(outcome))) => outcome,
        Ok(Ok(Err(error))) => failed(chain(&error)),
        Ok(Err(panic)) => failed(panic.to_string()),
        Err(_late) => failed(format!("no answer for {} s to an operation", patience.as_secs())),
    }
}

fn take(step: &Step, kubelet: &Kubelet, root: BorrowedFd<'_>) -> Result<OrderOutcome, SwapError> {
    Ok(match step {
        Step::Publish { dir, replaced } => {
            publish(root, dir, replaced)?;
            OrderOutcome::Swapped
        }
        Step::Retire { dirs } => {
            retire(root, dirs, &kubelet.binds(root)?)?;
            OrderOutcome::Retired
        }
        Step::Binds { skip } => OrderOutcome::page(kubelet.binds(root)?, *skip),
    })
}
