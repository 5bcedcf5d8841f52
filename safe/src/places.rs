//! Places for connections: what all peers may hold together, and what each may.
//!
//! Without the second, one workload could hold every place and lock all others out.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use spiffe::SpiffeId;

/// Connections of one SPIFFE ID at once. It is that of one pod, which needs one or two; sentinel
/// has one for each command under way.
const OF_ONE_PEER: usize = 256;
/// Connections at once: one per pod of a large cluster; each costs a descriptor and about 35 KiB.
const OF_ALL: u64 = 16_384;
/// Descriptors for all else: records being written, logs, SPIRE, the API server.
const OTHER_DESCRIPTORS: u64 = 256;

/// How many connections there may be where the process may have this many descriptors.
pub fn of_all(descriptors: u64) -> usize {
    let left = descriptors.saturating_sub(OTHER_DESCRIPTORS).max(1);
    usize::try_from(left.min(OF_ALL)).unwrap_or(usize::MAX)
}

type Held = Arc<Mutex<HashMap<SpiffeId, usize>>>;

/// Who holds how many.
#[derive(Clone, Debug, Default)]
pub struct Places(Held);

impl Places {
    /// One more for this peer, unless it holds too many.
    pub fn take(&self, peer: &SpiffeId) -> Option<Place> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(peer.clone()).or_default();
        if *count >= OF_ONE_PEER {
            return None;
        }
        *count += 1;
        drop(held);
        Some(Place { held: Arc::clone(&self.0), peer: peer.clone() })
    }
}

/// Is free again when it is dropped.
pub struct Place {
    held: Held,
    peer: SpiffeId,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Place").field(&self.peer).finish()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_cannot_take_the_places_of_others() {
        let id = |name: &str| SpiffeId::new(format!("spiffe://vsecm.com/{name}")).unwrap();
        let places = Places::default();
        let mut taken: Vec<Place> =
            (0..OF_ONE_PEER).map(|_| places.take(&id("greedy")).unwrap()).collect();
        assert!(places.take(&id("greedy")).is_none());
        assert!(places.take(&id("modest")).is_some());
        taken.pop();
        assert!(places.take(&id("greedy")).is_some());
        drop(taken);
        assert!(places.0.lock().unwrap().is_empty(), "nothing is kept");
    }

    #[test]
    fn connections_leave_descriptors_for_records() {
        assert_eq!(of_all(1024), 768);
        assert_eq!(of_all(1_048_576), 16_384);
        assert_eq!(of_all(64), 1);
    }
}
