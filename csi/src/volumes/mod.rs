//! The life of a volume: up, kept up, down.

mod bring_up;
mod take_down;

use std::{os::fd::AsFd, sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use vsecm_node_agent_api::{
    frame::{Order, OrderOutcome, sentence},
    volume::{VolumeId, VolumeRecord},
};

pub use bring_up::UpError;

use crate::{
    agent::{Agent, AgentError, State},
    deposit::Deposit,
    flight::{Errand, Flights, Lost},
    mount::{Kubelet, MountError, Occupant},
    status::chain,
    swap::swap,
    table::{Held, Table},
    target::Target,
};

/// A swap is a handful of operations on a tree in another process's memory: 0.3 ms. One that takes
/// this long hangs, and its thread is given up.
const SWAP_PATIENCE: Duration = Duration::from_secs(5);

type Outcome = Result<(), Arc<UpError>>;

/// All volumes of the node.
#[derive(Debug)]
pub struct Volumes {
    /// What csi holds.
    pub table: Table,
    /// node-agent.
    pub agent: Agent,
    /// The keeper.
    pub deposit: Deposit,
    kubelet: Arc<Kubelet>,
    hold: Duration,
    flights: Arc<Flights<Outcome>>,
}

impl Volumes {
    /// No volume yet. `hold` is how long a publish waits for its secret; `stop` ends every wait.
    pub fn new(
        agent: Agent,
        deposit: Deposit,
        kubelet: Kubelet,
        hold: Duration,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            table: Table::default(),
            agent,
            deposit,
            kubelet: Arc::new(kubelet),
            hold,
            flights: Arc::new(Flights::new(stop)),
        })
    }

    /// Brings a volume up, or finds it up.
    pub async fn publish(self: &Arc<Self>, record: VolumeRecord) -> Outcome {
        let volume = record.volume.clone();
        let task = |cancel| {
            let (this, record) = (Arc::clone(self), record.clone());
            async move { this.bring_up(record, cancel).await.map_err(Arc::new) }
        };
        let flown = self.flights.run(&volume, Errand::Publish, task).await;
        flown.unwrap_or_else(|lost: Lost| Err(Arc::new(lost.into())))
    }

    /// Takes a volume down, or finds it down.
    pub async fn unpublish(self: &Arc<Self>, volume: VolumeId, target: Target) -> Outcome {
        let task = |_cancel| {
            let (this, volume, target) = (Arc::clone(self), volume.clone(), target.clone());
            async move { this.take_down(volume, target).await.map_err(Arc::new) }
        };
        let flown = self.flights.run(&volume, Errand::Unpublish, task).await;
        flown.unwrap_or_else(|lost: Lost| Err(Arc::new(lost.into())))
    }

    /// Has a volume of ours served by a node-agent that does not do so yet. It is never gated.
    pub async fn revive(self: &Arc<Self>, volume: &VolumeId) -> Outcome {
        let task = |_cancel| {
            let (this, volume) = (Arc::clone(self), volume.clone());
            async move {
                let Some(held) = this.table.get(&volume) else {
                    return Ok(());
                };
                let target = held.record.target.parse().map_err(UpError::Target)?;
                this.serve_on(held, &target).await.map_err(Arc::new)
            }
        };
        let flown = self.flights.run(volume, Errand::Revive, task).await;
        flown.unwrap_or_else(|lost: Lost| Err(Arc::new(lost.into())))
    }

    /// Holds a volume that the keeper had, if it is still mounted; forgets it everywhere else.
    pub async fn readmit(&self, mut held: Held) -> Result<(), UpError> {
        let record = Arc::clone(&held.record);
        let target: Target = record.target.parse().map_err(UpError::Target)?;
        if self.occupant(&target).await? != Occupant::Ours {
            tracing::info!(volume = %record.volume, "is mounted no more: forgotten");
            self.forget(&record, &target).await;
            return Ok(());
        }
        if held.writable.is_none() {
            let here = target.clone();
            let writable = self.on_kubelet(move |k| k.writable(&here)).await?;
            held.writable = Some(Arc::new(writable));
        }
        self.table.insert(held);
        tracing::info!(volume = %record.volume, "taken over");
        Ok(())
    }

    /// What node-agent says of a volume of ours.
    pub async fn state(&self, volume: &VolumeId) -> Result<State, AgentError> {
        self.agent.state(volume).await
    }

    /// Carries out an order of node-agent.
    pub async fn obey(&self, order: &Order) -> OrderOutcome {
        let Some(held) = self.table.get(&order.volume) else {
            return OrderOutcome::UnknownVolume;
        };
        swap_within(SWAP_PATIENCE, held, order).await.map_or_else(
            |reason| OrderOutcome::Failed {
                reason: sentence(reason),
            },
            |()| OrderOutcome::Swapped,
        )
    }

    /// Waits for the tasks that run.
    pub async fn landed(&self) {
        self.flights.landed().await;
    }

    /// Runs a mount operation beside the async threads. It is never dropped half-way.
    async fn on_kubelet<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Kubelet) -> Result<T, MountError> + Send + 'static,
    ) -> Result<T, UpError> {
        let kubelet = Arc::clone(&self.kubelet);
        tokio::task::spawn_blocking(move || operation(&kubelet))
            .await
            .map_err(|_panic| UpError::Lost(Lost))?
            .map_err(UpError::Mount)
    }
}

async fn swap_within(patience: Duration, held: Held, order: &Order) -> Result<(), String> {
    let Some(writable) = held.writable else {
        return Err("the volume is not attached yet".to_owned());
    };
    let Ok(turn) = held.swapping.try_lock_owned() else {
        return Err("the swap before has not come to an end: its thread waits for you".to_owned());
    };
    let (publish, retire) = (order.publish.clone(), order.retire.clone());
    let work = tokio::task::spawn_blocking(move || {
        // kept until the thread is free again, however long the server lets it hang
        let _turn = turn;
        swap(writable.as_fd(), &publish, retire.as_ref())
    });
    match timeout(patience, work).await {
        Ok(Ok(swapped)) => swapped.map_err(|e| chain(&e)),
        Ok(Err(_panic)) => Err("the swap ended without an outcome".to_owned()),
        Err(_elapsed) => Err(format!(
            "an operation has not been answered for {} s",
            patience.as_secs()
        )),
    }
}
