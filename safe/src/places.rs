//! Places for connections: what all peers may hold together, and what each may.
//!
//! Without the second, one workload could hold every place and lock all others out.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use spiffe::SpiffeId;
use vsecm_safe_api::role::IdPattern;

/// Connections of one SPIFFE ID at once. It is that of one pod, which needs one or two; sentinel
/// has one for each command under way.
const OF_ONE_PEER: usize = 256;
/// Connections of all node agents, which have one SPIFFE ID, at once: one of each node of a cluster,
/// by Kubernetes' own bound. One who takes them all keeps others from reporting, and no more.
pub const OF_NODE_AGENTS: usize = 5_120;
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
#[derive(Clone, Debug)]
pub struct Places {
    held: Held,
    node_agent: IdPattern,
    /// What node agents may hold together.
    of_node_agents: usize,
}

impl Places {
    /// None is held yet of `all`. Node agents may have half of them.
    pub fn new(all: usize, node_agent: IdPattern) -> Self {
        let of_node_agents = (all / 2).clamp(1, OF_NODE_AGENTS);
        Self { held: Held::default(), node_agent, of_node_agents }
    }

    /// One more for this peer, unless it holds too many.
    pub fn take(&self, peer: &SpiffeId) -> Option<Place> {
        let is_node_agent = self.node_agent.matches(&peer.to_string());
        let limit = if is_node_agent { self.of_node_agents } else { OF_ONE_PEER };
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(peer.clone()).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        drop(held);
        Some(Place { held: Arc::clone(&self.held), peer: peer.clone() })
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
    use vsecm_safe_api::role::{DEFAULT_NODE_AGENT_PATTERN, NODE_AGENT_PATTERN};

    use super::*;

    fn places(all: usize) -> Places {
        let pattern = (NODE_AGENT_PATTERN, DEFAULT_NODE_AGENT_PATTERN);
        Places::new(all, IdPattern::parse(pattern.0, pattern.1, "vsecm.com").unwrap())
    }

    #[test]
    fn a_peer_cannot_take_the_places_of_others() {
        let id = |name: &str| SpiffeId::new(format!("spiffe://vsecm.com/{name}")).unwrap();
        let places = places(16_384);
        let mut taken: Vec<Place> =
            (0..OF_ONE_PEER).map(|_| places.take(&id("greedy")).unwrap()).collect();
        assert!(places.take(&id("greedy")).is_none());
        assert!(places.take(&id("modest")).is_some());
        taken.pop();
        assert!(places.take(&id("greedy")).is_some());
        drop(taken);
        assert!(places.held.lock().unwrap().is_empty(), "nothing is kept");
    }

    #[test]
    fn the_agents_of_all_nodes_share_one_id_and_leave_half_to_others() {
        let id = SpiffeId::new("spiffe://vsecm.com/vsecm-node-agent").unwrap();
        for (all, most) in [(16_384, OF_NODE_AGENTS), (1_000, 500)] {
            let places = places(all);
            let taken: Vec<Place> = std::iter::from_fn(|| places.take(&id)).collect();
            assert_eq!(taken.len(), most);
        }
    }

    #[test]
    fn connections_leave_descriptors_for_records() {
        assert_eq!(of_all(1024), 768);
        assert_eq!(of_all(1_048_576), 16_384);
        assert_eq!(of_all(64), 1);
    }
}
