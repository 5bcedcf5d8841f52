//! Orders to csi, which dials and waits for them.

use std::{
    collections::HashMap,
    mem::ManuallyDrop,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{RwLock, mpsc, oneshot, watch},
    time::timeout,
};
use tracing::{info, warn};
use vsecm_node_agent_api::{
    channel::{ChannelError, Connection},
    frame::{Order, OrderOutcome, OrderReply},
    volume::VolumeId,
};

use crate::mirror::Swap;

/// csi bounds its own file operations; an answer that takes longer than this never comes.
const OUTCOME_WAIT: Duration = Duration::from_secs(30);

/// A swap takes milliseconds. One that takes longer than this is not waited for at the end.
const REST_WAIT: Duration = Duration::from_secs(3);

/// Orders that wait to be sent; each volume has one at most.
const QUEUE: usize = 256;

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DutyError {
    /// csi is not there.
    #[error("csi is not there")]
    Away,
    /// csi went away before it answered; the swap may be half done.
    #[error("csi went away, or did not answer, while it swapped")]
    Lost,
    /// csi does not have the volume (yet).
    #[error("csi does not know the volume yet")]
    Unknown,
    /// csi tried.
    #[error("csi could not swap: {0}")]
    Failed(String),
}

struct Task {
    volume: VolumeId,
    swap: Swap,
    outcome: oneshot::Sender<OrderOutcome>,
}

/// The connection that csi keeps for orders.
#[derive(Debug)]
pub struct Duty {
    tasks: Mutex<Option<mpsc::Sender<Task>>>,
    arrivals: watch::Sender<u64>,
    /// Shared by orders under way.
    under_way: RwLock<()>,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("volume", &self.volume).finish_non_exhaustive()
    }
}

impl Default for Duty {
    fn default() -> Self {
        Self {
            tasks: Mutex::new(None),
            arrivals: watch::Sender::new(0),
            under_way: RwLock::const_new(()),
        }
    }
}

impl Duty {
    /// Changes whenever csi has come (back).
    pub fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrivals.subscribe()
    }

    /// Sends orders on `connection` until csi closes it or comes back with another.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub async fn serve(&self, connection: &Connection) -> Result<(), ChannelError> {
        let (sender, mut tasks) = mpsc::channel(QUEUE);
        *self.tasks.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        self.arrivals.send_modify(|count| *count += 1);
        info!("csi takes orders");
        let mut pending: HashMap<u64, oneshot::Sender<OrderOutcome>> = HashMap::new();
        let mut id = 0;
        loop {
            tokio::select! {
                task = tasks.recv() => {
                    let Some(task) = task else { return Ok(()) };
                    id += 1;
                    let order = Order {
                        id,
                        volume: task.volume,
                        publish: task.swap.publish,
                    };
                    pending.insert(id, task.outcome);
                    connection.send(&order, &[]).await?;
                }
                reply = connection.receive::<OrderReply>() => {
                    let Some((reply, _descriptors)) = reply? else {
                        warn!("csi takes no more orders");
                        return Ok(());
                    };
                    let outcome = pending.remove(&reply.id);
                    if outcome.is_none_or(|waiting| waiting.send(reply.outcome).is_err()) {
                        warn!(id = reply.id, "csi answered an order that nobody waits for");
                    }
                }
            }
        }
    }

    /// Gives no more orders, and waits for the outcomes of those under way. csi carries them out on
    /// files that this process serves: if it ended in the midst, csi could not end either, and
    /// would keep the node's lock from the successor whose answer it waits for.
    pub async fn rest(&self) {
        let rested = timeout(REST_WAIT, self.under_way.write()).await;
        if rested.is_err() {
            warn!("csi still swaps; the end does not wait for it");
        }
        // never given back
        let _resting = rested.map(ManuallyDrop::new);
    }

    /// Has csi swap a volume.
    ///
    /// # Errors
    /// [`DutyError`].
    pub async fn order(&self, volume: VolumeId, swap: Swap) -> Result<(), DutyError> {
        let _under_way = self.under_way.read().await;
        let tasks = {
            let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            tasks.clone().ok_or(DutyError::Away)?
        };
        let (outcome, done) = oneshot::channel();
        let task = Task { volume, swap, outcome };
        tasks.send(task).await.map_err(|_closed| DutyError::Away)?;
        // held no longer than needed: the connection ends when the last sender is gone
        drop(tasks);
        match timeout(OUTCOME_WAIT, done).await {
            Ok(Ok(OrderOutcome::Swapped)) => Ok(()),
            Ok(Ok(OrderOutcome::UnknownVolume)) => Err(DutyError::Unknown),
            Ok(Ok(OrderOutcome::Failed { reason })) => Err(DutyError::Failed(reason)),
            Ok(Err(_closed)) => Err(DutyError::Lost),
            Err(_elapsed) => Err(DutyError::Lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn swap() -> Swap {
        Swap { publish: "..2".parse().unwrap() }
    }

    fn volume() -> VolumeId {
        "csi-1".parse().unwrap()
    }

    async fn answered(outcome: Option<OrderOutcome>) -> Result<(), DutyError> {
        let duty = Arc::new(Duty::default());
        let (ours, theirs) = Connection::pair().unwrap();
        let served = Arc::clone(&duty);
        let mut arrivals = duty.arrivals();
        tokio::spawn(async move { served.serve(&ours).await });
        arrivals.wait_for(|count| *count == 1).await.unwrap();
        let csi = async {
            let (order, _) = theirs.receive::<Order>().await.unwrap().unwrap();
            if let Some(outcome) = outcome {
                let id = order.id;
                theirs.send(&OrderReply { id, outcome }, &[]).await.unwrap();
            } else {
                drop(theirs);
            }
        };
        let (result, ()) = tokio::join!(duty.order(volume(), swap()), csi);
        result
    }

    #[tokio::test]
    async fn an_order_has_the_outcome_that_csi_reports() {
        assert!(answered(Some(OrderOutcome::Swapped)).await.is_ok());
        assert!(matches!(
            answered(Some(OrderOutcome::UnknownVolume)).await,
            Err(DutyError::Unknown)
        ));
    }

    #[tokio::test]
    async fn at_the_end_an_order_under_way_has_its_outcome_and_no_other_begins() {
        let duty = Arc::new(Duty::default());
        let (ours, theirs) = Connection::pair().unwrap();
        let mut arrivals = duty.arrivals();
        let served = Arc::clone(&duty);
        tokio::spawn(async move { served.serve(&ours).await });
        arrivals.wait_for(|count| *count == 1).await.unwrap();
        let ordering = Arc::clone(&duty);
        let ordered = tokio::spawn(async move { ordering.order(volume(), swap()).await });
        let (order, _) = theirs.receive::<Order>().await.unwrap().unwrap();
        let mut resting = std::pin::pin!(duty.rest());
        assert!(futures_util::poll!(resting.as_mut()).is_pending());
        let mut late = std::pin::pin!(duty.order(volume(), swap()));
        assert!(futures_util::poll!(late.as_mut()).is_pending());
        let reply = OrderReply { id: order.id, outcome: OrderOutcome::Swapped };
        theirs.send(&reply, &[]).await.unwrap();
        resting.await;
        assert!(ordered.await.unwrap().is_ok());
        assert!(futures_util::poll!(late.as_mut()).is_pending(), "no order after the end");
    }

    #[tokio::test]
    async fn an_order_fails_when_csi_is_away_or_goes() {
        let away = Duty::default().order(volume(), swap()).await;
        assert!(matches!(away, Err(DutyError::Away)));
        assert!(matches!(answered(None).await, Err(DutyError::Lost)));
    }
}
