//! Which secret a volume shows, left to a successor: it must know before SPIRE can be asked.

use std::{os::fd::OwnedFd, sync::Arc};

use serde::{Deserialize, Serialize};
use vsecm_node_agent_api::{frame::ContentKey, volume::VolumeId};
use vsecm_safe_api::name::SecretKey;

use crate::{
    memfd,
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

/// A volume, its secret's key, and whether it may be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) volume: VolumeId,
    pub(super) key: SnapshotKey,
    pub(super) access: Access,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    volume: VolumeId,
    trust_domain: String,
    namespace: String,
    name: String,
    access: Access,
}

/// Bytes of a binding at most; names have bounds far below.
const LIMIT: usize = 8 * 1024;

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

impl Binding {
    pub(super) fn to_memfd(&self) -> Option<Arc<OwnedFd>> {
        let wire = Wire {
            volume: self.volume.clone(),
            trust_domain: self.key.trust_domain.clone(),
            namespace: self.key.secret.namespace.to_string(),
            name: self.key.secret.name.to_string(),
            access: self.access,
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
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::key;

    #[test]
    fn a_binding_survives_its_process() {
        let binding =
            Binding { volume: "csi-1".parse().unwrap(), key: key(), access: Access::Revoked };
        let memfd = binding.to_memfd().unwrap();
        assert_eq!(Binding::from_memfd(&memfd), Some(binding.clone()));
        assert!(is_binding(&binding_key(&binding.volume).unwrap()));
    }
}
