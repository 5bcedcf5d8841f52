//! Whether this process is ready, in words: its own identity, the `CSIDriver` object, its turn, and
//! the others of its node: csi, the keeper, SPIRE's agent.
//!
//! Never Safe, never a mount: a node that waits for Safe does what it can.

use std::{io, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};
use vsecm_safe_api::probe::{self, Probes, Readiness, prometheus_client::registry::Registry};

use crate::{
    args::Ports,
    identity::own::OwnIdentity,
    kubernetes::driver::Driver,
    peers::{Peer, Peers, agent_is_here},
    volumes::Volumes,
};

/// How often is looked whether the own identity has ended, which nobody tells.
const LOOK: Duration = Duration::from_secs(5);

/// Between two attempts to get the ports of the probes.
const PORT_PAUSE: Duration = Duration::from_millis(100);

/// What the process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It waits until the pod that serves this node is gone.
    StandingBy,
    /// It takes over what its predecessor served.
    Recovering,
    /// It serves csi.
    Serving,
}

/// All that readiness depends on.
#[derive(Debug)]
pub struct Health {
    /// Its own identity.
    pub own: OwnIdentity,
    /// The `CSIDriver` object.
    pub driver: watch::Receiver<Driver>,
    /// What it does.
    pub stage: watch::Receiver<Stage>,
    /// csi and the keeper.
    pub peers: Peers,
    /// What suffers from SPIRE's silence.
    pub volumes: Arc<Volumes>,
}

impl Health {
    /// Whether it is ready; if not, all that is missing.
    pub fn readiness(&self) -> Readiness {
        let is_recovering = *self.stage.borrow() == Stage::Recovering;
        let serves = *self.stage.borrow() == Stage::Serving;
        let is_away = |peer| serves && !self.peers.is_here(peer);
        let lacks = [
            self.own.lack(),
            self.driver.borrow().refusal(),
            is_away(Peer::Csi).then(|| "csi takes no orders of this node agent".to_owned()),
            is_away(Peer::Keeper).then(|| "the keeper of this node cannot be reached".to_owned()),
            (!agent_is_here(&self.volumes.census()))
                .then(|| "SPIRE's agent on this node cannot be reached".to_owned()),
            is_recovering
                .then(|| "this node agent takes over its predecessor's volumes".to_owned()),
        ];
        let lacks: Vec<_> = lacks.into_iter().flatten().collect();
        if lacks.is_empty() { Ok(()) } else { Err(lacks.join("; ")) }
    }

    /// Answers probes at these ports, for ever.
    pub async fn answer_probes(self, ports: Ports, registry: Registry) {
        // so that the first reason is news, too, and stands in the log
        let (told, state) = watch::channel(Err("this node agent starts".to_owned()));
        let metrics = Some(Arc::new(registry));
        let serve = || {
            let (state, metrics) = (state.clone(), metrics.clone());
            probe::serve(ports.liveness_port, ports.readiness_port, state, metrics)
        };
        tokio::join!(self.tell(told), async {
            let _probes = once_free(serve).await;
            std::future::pending::<()>().await;
        });
    }

    /// Tells the probes, for ever.
    async fn tell(mut self, told: watch::Sender<Readiness>) {
        loop {
            let readiness = self.readiness();
            told.send_if_modified(|before| {
                let is_news = *before != readiness;
                if is_news {
                    match &readiness {
                        Ok(()) => info!("ready"),
                        Err(reason) => warn!(reason, "not ready"),
                    }
                }
                *before = readiness;
                is_news
            });
            tokio::select! {
                () = self.own.changed() => {}
                Ok(()) = self.driver.changed() => {}
                Ok(()) = self.stage.changed() => {}
                () = sleep(LOOK) => {}
            }
        }
    }
}

/// Volumes do not wait for the ports, which a predecessor may hold: killed, it lingers until a
/// reader has its answer, and only a successor that serves can give that.
async fn once_free<F: Future<Output = io::Result<Probes>>>(serve: impl Fn() -> F) -> Probes {
    let mut is_said = false;
    loop {
        match serve().await {
            Ok(probes) => return probes,
            Err(error) if is_said => tracing::debug!(%error, "probes are still not answered"),
            Err(error) => warn!(%error, "probes are answered once the ports are free"),
        }
        is_said = true;
        sleep(PORT_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[tokio::test]
    async fn a_port_that_a_dead_predecessor_holds_is_waited_for() {
        let predecessor = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = predecessor.local_addr().unwrap();
        let (_told, state) = watch::channel(Ok(()));
        let serve = || probe::serve(Some(at), None, state.clone(), None);
        let (probes, ()) = tokio::join!(once_free(serve), async {
            tokio::task::yield_now().await;
            drop(predecessor);
        });
        assert_eq!(probes.liveness(), Some(at));
    }
}
