//! What Safe hears of this node: which pod shows what, and which waits.
//!
//! Each pod acknowledges with its own SVID, on the watch that it shares with others of its key
//! (`acks`). Which pods are there, and why some wait, this process says under an identity of its
//! own (`stream`); Safe answers with the pods of which it knows nothing, as after its start, and
//! these acknowledge again. Nothing that serves a volume waits for any of it.

use std::{
    fmt,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tracing::warn;
use vsecm_node_agent_api::volume::{PodUid, VolumeId, VolumeRecord};
use vsecm_safe_api::{client::Address, position::Shown};

use self::{acks::Acks, origin::Origin};
use crate::{keeper::Keeper, tls::BaseConfig, volumes::Volumes, watch::Watch};

mod acks;
mod origin;
mod send;
mod stream;

pub use self::origin::is_origin;

/// What is needed to speak to Safe.
#[derive(Clone, Debug)]
pub struct Means {
    /// Where Safe is.
    pub address: Address,
    /// How it is trusted; none before this process has its own identity.
    pub tls: watch::Receiver<Option<BaseConfig>>,
    /// The name of this node.
    pub node: String,
}

/// A watch, told from others by where it is.
#[derive(Clone, Debug)]
struct Shared(Arc<Watch>);

/// What is to be told to Safe.
#[derive(Default)]
pub struct Reports {
    acks: Mutex<Acks<Shared>>,
    due: Arc<Notify>,
    changed: Notify,
    origin: OnceLock<Origin>,
}

impl fmt::Debug for Reports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reports").finish_non_exhaustive()
    }
}

impl Reports {
    fn acks(&self) -> MutexGuard<'_, Acks<Shared>> {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be notified when an acknowledgement may have become possible.
    pub fn due(&self) -> Arc<Notify> {
        Arc::clone(&self.due)
    }

    /// Readers of a volume see this, which came by `watch`.
    pub fn shows(&self, record: &VolumeRecord, watch: &Arc<Watch>, shown: Shown) {
        let watch = Shared(Arc::clone(watch));
        self.acks().shows(&record.volume, &record.pod.uid, watch, shown, Instant::now());
        self.due.notify_one();
    }

    /// The volume shows nothing more of a secret, or is gone.
    pub fn gone(&self, volume: &VolumeId) {
        self.acks().gone(volume);
    }

    /// Something about the node's volumes has changed, or may have.
    pub fn changed(&self) {
        self.changed.notify_one();
    }

    /// Goes on with what a predecessor said.
    pub fn adopt(&self, memfd: &OwnedFd) {
        if let Some(origin) = Origin::from_memfd(memfd) {
            drop(self.origin.set(origin));
        } else {
            warn!("the origin of reports at the keeper is not understood");
        }
    }

    /// Begins to tell Safe, once what a predecessor left is known.
    pub fn begin(self: Arc<Self>, means: Means, keeper: Keeper, volumes: Arc<Volumes>) {
        if self.origin.get().is_none() {
            match Origin::random() {
                Ok(origin) => {
                    drop(self.origin.set(origin.clone()));
                    tokio::spawn(async move { origin.deposit(&keeper).await });
                }
                Err(error) => {
                    warn!(%error, "Safe is told nothing of this node: no random numbers");
                    return;
                }
            }
        }
        tokio::spawn(Arc::clone(&self).acknowledge(means.clone()));
        tokio::spawn(self.report(means, volumes));
    }

    fn origin(&self) -> String {
        self.origin.get().map(Origin::expose).unwrap_or_default()
    }

    fn are_unknown(&self, pods: impl IntoIterator<Item = PodUid>) {
        let mut acks = self.acks();
        for pod in pods {
            acks.unknown(&pod);
        }
        drop(acks);
        self.due.notify_one();
    }
}
