//! Whether the other processes of this node are there, and since when they run.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{volumes::Census, wait::Wait};

/// Another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// csi, on its connection for orders.
    Csi,
    /// The keeper.
    Keeper,
}

impl Peer {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Csi, Self::Keeper];

    /// As metrics label it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Csi => "csi",
            Self::Keeper => "keeper",
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// A new process may come before the end of the old one is seen.
    connections: usize,
    started: Option<f64>,
}

/// What is known of them.
#[derive(Clone, Debug, Default)]
pub struct Peers(Arc<Mutex<BTreeMap<Peer, Seen>>>);

/// It is there until this is dropped.
#[derive(Debug)]
pub struct Visit {
    peers: Peers,
    peer: Peer,
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.peers.change(self.peer, |seen| seen.connections = seen.connections.saturating_sub(1));
    }
}

impl Peers {
    /// It is there, as that process.
    #[must_use]
    pub fn visit(&self, peer: Peer, pid: i32) -> Visit {
        let started = started(pid);
        self.change(peer, |seen| {
            seen.connections += 1;
            seen.started = started.or(seen.started);
        });
        Visit { peers: self.clone(), peer }
    }

    fn change(&self, peer: Peer, change: impl FnOnce(&mut Seen)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(all.entry(peer).or_default());
    }

    fn seen(&self, peer: Peer) -> Seen {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&peer).copied().unwrap_or_default()
    }

    /// Whether it is there.
    pub fn is_here(&self, peer: Peer) -> bool {
        self.seen(peer).connections > 0
    }

    /// When the one that was there last has started, in seconds of Unix time.
    pub fn started(&self, peer: Peer) -> Option<f64> {
        self.seen(peer).started
    }
}

/// Whether Safe can be asked, by what volumes suffer from: idle, nobody asks it.
pub fn safe_is_here(census: &Census) -> bool {
    !suffers(census, &[Wait::SafeUnreachable])
}

/// Whether SPIRE can be asked.
pub fn spire_is_here(census: &Census, has_own: bool) -> bool {
    has_own && !suffers(census, &[Wait::SpireSilent, Wait::SpireUnreachable])
}

/// Whether SPIRE's agent can be reached at all: its server is somebody else's.
pub fn agent_is_here(census: &Census) -> bool {
    !suffers(census, &[Wait::SpireUnreachable])
}

fn suffers(census: &Census, from: &[Wait]) -> bool {
    from.iter().any(|wait| {
        let count = |of: &BTreeMap<Wait, usize>| of.get(wait).copied().unwrap_or(0);
        count(&census.waiting) + count(&census.stale) > 0
    })
}

/// Ticks of a second in `/proc`, the same on all architectures of Linux.
const TICKS: f64 = 100.0;

/// When a process has started, in seconds of Unix time.
pub fn started(pid: i32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let since_boot = ticks(&stat)? / TICKS;
    let up: f64 = uptime.split(' ').next()?.parse().ok()?;
    Some(now.as_secs_f64() - up + since_boot)
}

/// After the boot, from `/proc/<pid>/stat`; the name, in parentheses, may hold anything.
fn ticks(stat: &str) -> Option<f64> {
    let (_name, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_while_it_is_away_too() {
        let peers = Peers::default();
        assert!(!peers.is_here(Peer::Keeper));
        assert_eq!(peers.started(Peer::Keeper), None);
        let own = i32::try_from(std::process::id()).unwrap();
        let first = peers.visit(Peer::Keeper, own);
        let second = peers.visit(Peer::Keeper, own);
        drop(first);
        assert!(peers.is_here(Peer::Keeper) && !peers.is_here(Peer::Csi));
        let started = peers.started(Peer::Keeper).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(started <= now + 1.0 && now - started < 3600.0, "{started}, now {now}");
        drop(second);
        assert!(!peers.is_here(Peer::Keeper));
        assert_eq!(peers.started(Peer::Keeper), Some(started));
    }

    #[test]
    fn a_name_with_parentheses_hides_no_number() {
        let stat = format!("7 (a) b) S {} 4711 0", vec!["0"; 18].join(" "));
        assert_eq!(ticks(&stat), Some(4711.0));
    }

    #[test]
    fn safe_is_away_when_a_volume_says_so() {
        let mut census = Census::default();
        assert!(safe_is_here(&census) && spire_is_here(&census, true));
        assert!(!spire_is_here(&census, false));
        census.stale.insert(Wait::SafeUnreachable, 1);
        census.waiting.insert(Wait::SpireSilent, 1);
        assert!(!safe_is_here(&census) && !spire_is_here(&census, true));
        assert!(agent_is_here(&census), "it is its server that is silent");
        census.stale.insert(Wait::SpireUnreachable, 1);
        assert!(!agent_is_here(&census));
    }
}
