//! Whether this process is ready, in words: its own identity, the `CSIDriver` object, its turn.
//!
//! Never Safe, never a mount: a node that waits for Safe does what it can.

use std::time::Duration;

use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};
use vsecm_safe_api::probe::Readiness;

use crate::{identity::own::OwnIdentity, kubernetes::driver::Driver};

/// How often is looked whether the own identity has ended, which nobody tells.
const LOOK: Duration = Duration::from_secs(5);

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
}

impl Health {
    /// Whether it is ready; if not, all that is missing.
    pub fn readiness(&self) -> Readiness {
        let is_recovering = *self.stage.borrow() == Stage::Recovering;
        let lacks = [
            self.own.lack(),
            self.driver.borrow().refusal(),
            is_recovering
                .then(|| "this node agent takes over its predecessor's volumes".to_owned()),
        ];
        let lacks: Vec<_> = lacks.into_iter().flatten().collect();
        if lacks.is_empty() { Ok(()) } else { Err(lacks.join("; ")) }
    }

    /// Tells the probes, for ever.
    pub async fn tell(mut self, told: watch::Sender<Readiness>) {
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
