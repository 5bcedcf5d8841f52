//! Orders to csi, which dials and waits for them.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
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
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("volume", &self.volume).finish_non_exhaustive()
    }
}

impl Default for Duty {
    fn default() -> Self {
        Self { tasks: Mutex::new(None), arrivals: watch::Sender::new(0) }
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

    /// Has csi swap a volume.
    ///
    /// # Errors
    /// [`DutyError`].
    pub async fn order(&self, volume: VolumeId, swap: Swap) -> Result<(), DutyError> {
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
    async fn an_order_fails_when_csi_is_away_or_goes() {
        let away = Duty::default().order(volume(), swap()).await;
        assert!(matches!(away, Err(DutyError::Away)));
        assert!(matches!(answered(None).await, Err(DutyError::Lost)));
    }
}
