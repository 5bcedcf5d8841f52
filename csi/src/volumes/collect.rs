//! Volumes whose pod is gone without an unpublish: the kubelet forgets one after a final error, and
//! a pod's folder may be taken away by hand.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use vsecm_node_agent_api::client::chain;

use super::{Volumes, each, lock};

impl Volumes {
    /// Takes down what belongs to no pod, again and again.
    pub(crate) async fn collect(self: Arc<Self>, every: Duration) {
        self.recovered.cancelled().await;
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.collect_once().await;
        }
    }

    async fn collect_once(self: &Arc<Self>) {
        let this = Arc::clone(self);
        let gone = spawn_blocking(move || {
            let kubelet = &this.kubelet;
            // not under the lock: the folders are the node's disk
            let all = lock(&this.state.claims).all();
            all.into_iter().filter(|(_, target)| !kubelet.has_pod(&target.pod)).collect::<Vec<_>>()
        });
        each(gone.await.unwrap_or_default(), |(volume, target)| {
            let this = Arc::clone(self);
            async move {
                tracing::warn!(%volume, pod = %target.pod, "the pod's folder is gone: taken down");
                // a record that names another target than the first publish did
                let held = this.held(&volume).and_then(|held| held.record.target.parse().ok());
                if let Err(error) = this.unpublish(volume, held.unwrap_or(target)).await {
                    tracing::warn!(error = chain(&error), "what is left of a pod stays");
                }
            }
        })
        .await;
    }
}
