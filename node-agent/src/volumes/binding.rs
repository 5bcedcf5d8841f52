//! Which secret a volume shows, left to a successor: it must know before SPIRE can be asked.

use std::{collections::BTreeSet, os::fd::OwnedFd, sync::Arc};

use serde::{Deserialize, Serialize};
use vsecm_node_agent_api::{frame::ContentKey, volume::VolumeId};
use vsecm_safe_api::name::SecretKey;

use crate::{
    memfd,
    mirror::Followers,
    snapshot::{SnapshotKey, VersionId},
};

/// Whether a volume's files went with the pod's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Access {
    /// The pod may see what is there.
    Granted,
    /// The identity was withdrawn: the pod sees this version, by its sequence, and no newer one.
    Stopped(u64),
    /// The identity was withdrawn, and the volume asks for its files to go then.
    Revoked,
}

/// What mounts show of a volume's old versions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Bound {
    /// Inodes that follow.
    #[serde(default, skip_serializing_if = "Followers::is_empty")]
    pub(super) followers: Followers,
    /// Versions that are kept, by their sequences.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) kept: BTreeSet<u64>,
}

/// A volume, its secret's key, and whether it may be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) volume: VolumeId,
    pub(super) key: SnapshotKey,
    pub(super) access: Access,
    pub(super) bound: Bound,
    /// The SPIFFE ID under which opens are recorded, where they are.
    pub(super) actor: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    volume: VolumeId,
    trust_domain: String,
    namespace: String,
    name: String,
    access: Access,
    #[serde(default, skip_serializing_if = "Bound::is_empty")]
    bound: Bound,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    actor: String,
}

/// Bytes of a binding at most; names have bounds far below, and a pod has few mounts.
const LIMIT: usize = 1024 * 1024;

/// How the names of bindings at the keeper start.
const PREFIX: &str = "volume-";

/// Whether the keeper's entry of this name is a binding.
pub(super) fn is_binding(key: &ContentKey) -> bool {
    String::from(key.clone()).starts_with(PREFIX)
}

/// The name of a volume's binding at the keeper.
pub(super) fn binding_key(volume: &VolumeId) -> Option<ContentKey> {
    let id = VersionId::of(&[volume.as_str().as_bytes()]);
    ContentKey::try_from(format!("{PREFIX}{id:?}")).ok()
}

impl Bound {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Binding {
    pub(super) fn to_memfd(&self) -> Option<Arc<OwnedFd>> {
        let wire = Wire {
            volume: self.volume.clone(),
            trust_domain: self.key.trust_domain.clone(),
            namespace: self.key.secret.namespace.to_string(),
            name: self.key.secret.name.to_string(),
            access: self.access,
            bound: self.bound.clone(),
            actor: self.actor.clone(),
        };
        let json = serde_json::to_vec(&wire).ok()?;
        memfd::sealed(&[&json]).ok().map(Arc::new)
    }

    pub(super) fn from_memfd(memfd: &OwnedFd) -> Option<Self> {
        let json = memfd::contents(memfd, LIMIT).ok()?;
        let wire: Wire = serde_json::from_slice(&json).ok()?;
        Some(Self {
            volume: wire.volume,
            key: SnapshotKey {
                trust_domain: wire.trust_domain,
                secret: SecretKey::parse(&wire.namespace, &wire.name).ok()?,
            },
            access: wire.access,
            bound: wire.bound,
            actor: wire.actor,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::key;

    #[test]
    fn a_binding_survives_its_process() {
        let followers = [(6, "a".to_owned())].into();
        let binding = Binding {
            volume: "csi-1".parse().unwrap(),
            key: key(),
            access: Access::Revoked,
            bound: Bound { followers, kept: [7].into() },
            actor: "spiffe://vsecm.com/workload/web".to_owned(),
        };
        let memfd = binding.to_memfd().unwrap();
        assert_eq!(Binding::from_memfd(&memfd), Some(binding.clone()));
        assert!(is_binding(&binding_key(&binding.volume).unwrap()));
    }
}
