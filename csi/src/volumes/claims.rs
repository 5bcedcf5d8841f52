//! Which volumes the kubelet has asked for and not taken back. Pure.

use std::collections::BTreeMap;

use vsecm_node_agent_api::{target::Target, volume::VolumeId};

/// Volumes of a pod at most. Each has content in node-agent's memory, and the pod's author says how
/// many there are.
pub(crate) const POD_LIMIT: usize = 8;

/// Volumes of a node at most. The kubelet's default is 110 pods, managed clusters have up to 250;
/// the keeper takes four times as many, node-agent has two threads for each.
pub(crate) const NODE_LIMIT: usize = 1000;

/// No volume more.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Crowded {
    #[error("the pod has {POD_LIMIT} volumes of this driver already, and none may have more")]
    Pod,
    #[error("this node has {NODE_LIMIT} volumes of this driver already, and none may have more")]
    Node,
}

/// How long the next publish of a volume is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// For moments: its pod is to show soon why it waits.
    First,
    /// As long as the kubelet lets it.
    Later,
}

#[derive(Clone, Debug)]
struct Claim {
    target: Target,
    hold: Hold,
}

/// All of them. A claim lasts from the first publish to the unpublish; a publish that failed makes
/// no difference, as the kubelet unpublishes then too.
#[derive(Debug, Default)]
pub(crate) struct Claims(BTreeMap<VolumeId, Claim>);

impl Claims {
    /// Takes a volume in. One that is in already is never refused.
    pub(crate) fn admit(&mut self, volume: &VolumeId, target: &Target) -> Result<(), Crowded> {
        if self.0.contains_key(volume) {
            return Ok(());
        }
        if self.0.len() >= NODE_LIMIT {
            return Err(Crowded::Node);
        }
        if self.0.values().filter(|claim| claim.target.pod == target.pod).count() >= POD_LIMIT {
            return Err(Crowded::Pod);
        }
        self.keep(volume, target);
        Ok(())
    }

    /// Takes in what is there, whatever the bounds.
    pub(crate) fn keep(&mut self, volume: &VolumeId, target: &Target) {
        let claim = || Claim { target: target.clone(), hold: Hold::First };
        self.0.entry(volume.clone()).or_insert_with(claim);
    }

    /// How long the next publish is held.
    pub(crate) fn hold(&self, volume: &VolumeId) -> Hold {
        self.0.get(volume).map_or(Hold::First, |claim| claim.hold)
    }

    /// A publish has ended without the volume.
    pub(crate) fn has_waited(&mut self, volume: &VolumeId) {
        if let Some(claim) = self.0.get_mut(volume) {
            claim.hold = Hold::Later;
        }
    }

    /// The kubelet wants it no more.
    pub(crate) fn release(&mut self, volume: &VolumeId) {
        self.0.remove(volume);
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<(VolumeId, Target)> {
        let all = self.0.iter();
        all.map(|(volume, claim)| (volume.clone(), claim.target.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(pod: usize, number: usize) -> (VolumeId, Target) {
        let target = format!("pods/{pod}/volumes/kubernetes.io~csi/v{number}/mount");
        (format!("csi-{pod}-{number}").parse().unwrap(), target.parse().unwrap())
    }

    #[test]
    fn a_pod_has_eight_volumes_and_a_node_a_thousand() {
        let mut claims = Claims::default();
        let admit = |claims: &mut Claims, pod, number| {
            let (volume, target) = volume(pod, number);
            claims.admit(&volume, &target)
        };
        for number in 0..1000 {
            assert_eq!(admit(&mut claims, number / 8, number % 8), Ok(()));
        }
        assert_eq!(admit(&mut claims, 500, 0), Err(Crowded::Node));
        claims.release(&volume(0, 0).0);
        assert_eq!(admit(&mut claims, 1, 8), Err(Crowded::Pod));
        assert_eq!(admit(&mut claims, 1, 7), Ok(()), "one that is in stays in");
        assert_eq!(admit(&mut claims, 0, 8), Ok(()));
        let (one, target) = volume(600, 0);
        claims.keep(&one, &target);
        assert_eq!(admit(&mut claims, 600, 0), Ok(()), "what is there is not refused");
    }

    #[test]
    fn only_the_first_hold_is_short_until_the_volume_is_given_up() {
        let mut claims = Claims::default();
        let (one, target) = volume(1, 1);
        assert_eq!(claims.hold(&one), Hold::First);
        claims.has_waited(&one);
        claims.admit(&one, &target).unwrap();
        assert_eq!(claims.hold(&one), Hold::First);
        claims.has_waited(&one);
        claims.admit(&one, &target).unwrap();
        assert_eq!(claims.hold(&one), Hold::Later);
        claims.release(&one);
        assert_eq!(claims.all(), []);
        claims.admit(&one, &target).unwrap();
        assert_eq!((claims.hold(&one), claims.all()), (Hold::First, vec![(one, target)]));
    }
}
