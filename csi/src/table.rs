//! What csi holds of each volume.

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use vsecm_node_agent_api::volume::{VolumeId, VolumeRecord};

/// A volume and its descriptors.
#[derive(Clone, Debug)]
pub struct Held {
    /// The volume.
    pub record: Arc<VolumeRecord>,
    /// `/dev/fuse`. Missing only where csi and keeper lost everything and node-agent serves on.
    pub fuse: Option<Arc<OwnedFd>>,
    /// The private read-write mount, once the volume is attached.
    pub writable: Option<Arc<OwnedFd>>,
    /// Held by the swap that runs: a second one is refused, so that a server that hangs one thread
    /// hangs no other.
    pub swapping: Arc<tokio::sync::Mutex<()>>,
}

impl Held {
    /// A volume with the descriptors that are there.
    pub fn new(record: VolumeRecord, fuse: Option<OwnedFd>, writable: Option<OwnedFd>) -> Self {
        Self {
            record: Arc::new(record),
            fuse: fuse.map(Arc::new),
            writable: writable.map(Arc::new),
            swapping: Arc::default(),
        }
    }
}

/// All volumes, by id.
#[derive(Debug, Default)]
pub struct Table(Mutex<BTreeMap<VolumeId, Held>>);

impl Table {
    /// Holds a volume from now on.
    pub fn insert(&self, held: Held) {
        self.lock().insert(held.record.volume.clone(), held);
    }

    /// Adds the private mount to a volume that is held.
    pub fn set_writable(&self, volume: &VolumeId, writable: OwnedFd) {
        if let Some(held) = self.lock().get_mut(volume) {
            held.writable = Some(Arc::new(writable));
        }
    }

    /// A volume.
    pub fn get(&self, volume: &VolumeId) -> Option<Held> {
        self.lock().get(volume).cloned()
    }

    /// Lets a volume go.
    pub fn remove(&self, volume: &VolumeId) -> Option<Held> {
        self.lock().remove(volume)
    }

    /// The ids of all volumes.
    pub fn ids(&self) -> Vec<VolumeId> {
        self.lock().keys().cloned().collect()
    }

    /// The volume that is recorded at a target.
    pub fn owner(&self, target: &str) -> Option<VolumeId> {
        let at_target = |held: &&Held| held.record.target == target;
        let table = self.lock();
        let owner = table
            .values()
            .find(at_target)
            .map(|h| h.record.volume.clone());
        drop(table);
        owner
    }

    // no code runs under this lock that could panic, so a poisoned one is as good as new
    fn lock(&self) -> MutexGuard<'_, BTreeMap<VolumeId, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
