//! Which user each component is.

use std::fs;

use nix::unistd::{getegid, geteuid};
use vsecm_node_agent_api::peer::PeerRule;

use crate::{authority::Caller, component::Component};

/// The first of the ids, which is also the group of the sockets between components. Below the
/// ranges that systemd hands out by itself, above those that distributions give to people.
const FIRST: u32 = 59_200;

/// Whether components have users of their own ([I9]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// A uid for each.
    Own,
    /// One id is all there is, as in a user namespace made by an ordinary user: peers are then
    /// told apart by their executables.
    Single,
}

impl Users {
    /// What this process can give.
    pub fn detect() -> Self {
        let has = |map: &str| fs::read_to_string(map).is_ok_and(|map| covers(&map, FIRST..=last()));
        let root = geteuid().is_root();
        if root && has("/proc/self/uid_map") && has("/proc/self/gid_map") {
            Self::Own
        } else {
            Self::Single
        }
    }

    /// User and group of a component; `None` where it is ours.
    pub(crate) fn ids(self, component: Component) -> Option<Caller> {
        let number = match (self, component) {
            (Self::Single, _) | (Self::Own, Component::Csi) => return None,
            (Self::Own, Component::Safe) => 1,
            (Self::Own, Component::Keeper) => 2,
            (Self::Own, Component::NodeAgent) => 3,
            (Self::Own, Component::Sentinel) => 4,
        };
        let gid = match component {
            // they meet on sockets with the group's permission
            Component::Keeper | Component::NodeAgent => FIRST,
            _ => FIRST + number,
        };
        let uid = FIRST + number;
        Some(Caller { uid, gid })
    }

    /// Who a component's files belong to.
    pub(crate) fn owner(self, component: Component) -> Caller {
        self.ids(component).unwrap_or_else(ourselves)
    }

    /// How its peers know a component.
    pub fn peer(self, component: Component) -> String {
        match self {
            Self::Own => format!("uid:{}", self.owner(component).uid),
            Self::Single => format!("exe:{}", component.binary()),
        }
    }

    /// The same, parsed.
    pub fn peer_rule(self, component: Component) -> PeerRule {
        match self {
            Self::Own => PeerRule::Uid(self.owner(component).uid),
            Self::Single => PeerRule::Executable(component.binary().to_owned()),
        }
    }
}

fn last() -> u32 {
    FIRST + 4
}

/// This process's user and group.
pub(crate) fn ourselves() -> Caller {
    Caller { uid: geteuid().as_raw(), gid: getegid().as_raw() }
}

/// Whether a `uid_map` of the kernel has all of `ids`: lines of first inside, first outside, count.
fn covers(map: &str, ids: std::ops::RangeInclusive<u32>) -> bool {
    let ranges: Vec<_> = map
        .lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse::<u64>);
            let (first, _, count) = (numbers.next()?, numbers.next()?, numbers.next()?);
            let (first, count) = (first.ok()?, count.ok()?);
            Some(first..first.saturating_add(count))
        })
        .collect();
    let mapped = |id: u32| ranges.iter().any(|range| range.contains(&u64::from(id)));
    ids.into_iter().all(mapped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_covers_the_ids_that_its_ranges_hold() {
        let all = "         0          0 4294967295\n";
        let one = "0 1000 1\n";
        let two = "0 1000 1\n1 100000 65536\n";
        assert!(covers(all, 59_200..=59_204));
        assert!(!covers(one, 59_200..=59_204));
        assert!(covers(two, 59_200..=59_204));
        assert!(!covers(two, 65_536..=65_537));
        assert!(!covers("", 0..=0));
    }

    #[test]
    fn no_two_components_share_a_uid() {
        let uids: std::collections::BTreeSet<_> = Component::ALL
            .iter()
            .map(|component| Users::Own.ids(*component).map(|ids| ids.uid))
            .collect();
        assert_eq!(uids.len(), Component::ALL.len());
    }

    #[test]
    fn peers_are_written_as_they_are_parsed() {
        for users in [Users::Own, Users::Single] {
            for component in Component::ALL {
                let written = users.peer(component);
                assert_eq!(written.parse(), Ok(users.peer_rule(component)));
            }
        }
    }
}
