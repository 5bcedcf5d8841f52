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
    frame::{Bind, DIR_LIMIT, Order, OrderOutcome, OrderReply, Step},
    volume::{VersionDir, VolumeId},
};

/// Mounts of one volume that are believed at most. A pod has a subPath mount per container and key.
const BIND_LIMIT: usize = 4096;

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
    /// csi went away before it answered; the order may be half done.
    #[error("csi went away, or did not answer, while it swapped")]
    Lost,
    /// csi does not have the volume (yet).
    #[error("csi does not know the volume yet")]
    Unknown,
    /// csi tried.
    #[error("csi could not swap: {0}")]
    Failed(String),
    /// csi answers something else than it was asked.
    #[error("csi's answer does not fit the order")]
    Strange,
}

struct Task {
    volume: VolumeId,
    step: Step,
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
                    let order = Order { id, volume: task.volume, step: task.step };
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

    /// Has csi publish a version.
    ///
    /// # Errors
    /// [`DutyError`].
    pub async fn publish(
        &self,
        volume: VolumeId,
        dir: VersionDir,
        replaced: Vec<VersionDir>,
    ) -> Result<(), DutyError> {
        match self.order(volume, Step::Publish { dir, replaced }).await? {
            OrderOutcome::Swapped => Ok(()),
            _ => Err(DutyError::Strange),
        }
    }

    /// Has csi remove folders that nothing shows, and tell what the mounts show that are left.
    ///
    /// # Errors
    /// [`DutyError`].
    pub async fn retire(
        &self,
        volume: VolumeId,
        dirs: Vec<VersionDir>,
    ) -> Result<Vec<Bind>, DutyError> {
        for dirs in dirs.chunks(DIR_LIMIT) {
            let step = Step::Retire { dirs: dirs.to_vec() };
            let OrderOutcome::Retired = self.order(volume.clone(), step).await? else {
                return Err(DutyError::Strange);
            };
        }
        let mut all = Vec::new();
        loop {
            let step = Step::Binds { skip: all.len() };
            let OrderOutcome::Binds { binds, left } = self.order(volume.clone(), step).await?
            else {
                return Err(DutyError::Strange);
            };
            if left > 0 && (binds.is_empty() || all.len() > BIND_LIMIT) {
                return Err(DutyError::Strange);
            }
            all.extend(binds);
            if left == 0 {
                return Ok(all);
            }
        }
    }

    async fn order(&self, volume: VolumeId, step: Step) -> Result<OrderOutcome, DutyError> {
        let _under_way = self.under_way.read().await;
        let tasks = {
            let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            tasks.clone().ok_or(DutyError::Away)?
        };
        let (outcome, done) = oneshot::channel();
        let task = Task { volume, step, outcome };
        tasks.send(task).await.map_err(|_closed| DutyError::Away)?;
        // held no longer than needed: the connection ends when the last sender is gone
        drop(tasks);
        match timeout(OUTCOME_WAIT, done).await {
            Ok(Ok(OrderOutcome::UnknownVolume)) => Err(DutyError::Unknown),
            Ok(Ok(OrderOutcome::Failed { reason })) => Err(DutyError::Failed(reason)),
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_closed)) => Err(DutyError::Lost),
            Err(_elapsed) => Err(DutyError::Lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    async fn publish(duty: &Duty) -> Result<(), DutyError> {
        duty.publish(volume(), "..2".parse().unwrap(), Vec::new()).await
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
        let (result, ()) = tokio::join!(publish(&duty), csi);
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
    async fn binds_come_in_pages_and_an_answer_to_another_question_is_none() {
        let duty = Arc::new(Duty::default());
        let (ours, theirs) = Connection::pair().unwrap();
        let mut arrivals = duty.arrivals();
        let served = Arc::clone(&duty);
        tokio::spawn(async move { served.serve(&ours).await });
        arrivals.wait_for(|count| *count == 1).await.unwrap();
        let bind = |path: &str| Bind { dir: "..1".parse().unwrap(), path: path.into(), ino: None };
        let csi = async {
            for (path, left) in [("a", 1), ("b", 0)] {
                let (order, _) = theirs.receive::<Order>().await.unwrap().unwrap();
                assert_eq!(order.step, Step::Binds { skip: 1 - left });
                let outcome = OrderOutcome::Binds { binds: vec![bind(path)], left };
                theirs.send(&OrderReply { id: order.id, outcome }, &[]).await.unwrap();
            }
            let (order, _) = theirs.receive::<Order>().await.unwrap().unwrap();
            let outcome = OrderOutcome::Retired;
            theirs.send(&OrderReply { id: order.id, outcome }, &[]).await.unwrap();
        };
        let asked = async {
            let binds = duty.retire(volume(), Vec::new()).await.unwrap();
            assert_eq!(binds, [bind("a"), bind("b")]);
            assert!(matches!(publish(&duty).await, Err(DutyError::Strange)));
        };
        tokio::join!(asked, csi);
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
        let ordered = tokio::spawn(async move { publish(&ordering).await });
        let (order, _) = theirs.receive::<Order>().await.unwrap().unwrap();
        let mut resting = std::pin::pin!(duty.rest());
        assert!(futures_util::poll!(resting.as_mut()).is_pending());
        let mut late = std::pin::pin!(publish(&duty));
        assert!(futures_util::poll!(late.as_mut()).is_pending());
        let reply = OrderReply { id: order.id, outcome: OrderOutcome::Swapped };
        theirs.send(&reply, &[]).await.unwrap();
        resting.await;
        assert!(ordered.await.unwrap().is_ok());
        assert!(futures_util::poll!(late.as_mut()).is_pending(), "no order after the end");
    }

    #[tokio::test]
    async fn an_order_fails_when_csi_is_away_or_goes() {
        let away = publish(&Duty::default()).await;
        assert!(matches!(away, Err(DutyError::Away)));
        assert!(matches!(answered(None).await, Err(DutyError::Lost)));
    }
}
