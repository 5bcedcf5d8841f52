//! The requests exactly as the kubelet makes them for an inline volume.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::spec::PodSpec;
use crate::proto::csi::{
    NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability,
    volume_capability::{AccessMode, AccessType, MountVolume, access_mode::Mode::SingleNodeWriter},
};

/// The name that pods give the volume here, as the README tells them to.
pub const VOLUME: &str = "vsecm";

/// `csi-` and the SHA-256 of pod uid and volume name, in hex.
pub(super) fn volume_id(pod_uid: &str) -> String {
    let digest = Sha256::digest(format!("{pod_uid}{VOLUME}"));
    format!("csi-{}", hex::encode(digest))
}

/// Where the kubelet wants the volume; the driver makes the last component.
pub fn target(kubelet: &Path, pod_uid: &str) -> PathBuf {
    let volumes = kubelet.join("pods").join(pod_uid).join("volumes");
    volumes.join("kubernetes.io~csi").join(VOLUME).join("mount")
}

/// What publishes the volume of a pod with this uid at this target.
pub fn publish(spec: &PodSpec, uid: &str, target: &Path) -> NodePublishVolumeRequest {
    let attributes: BTreeMap<_, _> = spec.attributes.clone();
    let mut volume_context: HashMap<String, String> = attributes.into_iter().collect();
    // the kubelet's own keys win over the author's
    for (key, value) in [
        ("csi.storage.k8s.io/pod.name", spec.name.as_str()),
        ("csi.storage.k8s.io/pod.namespace", &spec.namespace),
        ("csi.storage.k8s.io/pod.uid", uid),
        ("csi.storage.k8s.io/serviceAccount.name", &spec.service_account),
        ("csi.storage.k8s.io/ephemeral", "true"),
    ] {
        volume_context.insert(key.to_owned(), value.to_owned());
    }
    let group = spec.fs_group.map(|group| group.to_string());
    let mount = MountVolume {
        fs_type: String::new(),
        mount_flags: Vec::new(),
        volume_mount_group: group.unwrap_or_default(),
    };
    NodePublishVolumeRequest {
        volume_id: volume_id(uid),
        publish_context: HashMap::new(),
        staging_target_path: String::new(),
        target_path: target.display().to_string(),
        volume_capability: Some(VolumeCapability {
            // an inline volume is always asked for so, also when it is read-only
            access_mode: Some(AccessMode { mode: SingleNodeWriter.into() }),
            access_type: Some(AccessType::Mount(mount)),
        }),
        readonly: true,
        secrets: HashMap::new(),
        volume_context,
    }
}

/// What takes it away.
pub fn unpublish(uid: &str, target: &Path) -> NodeUnpublishVolumeRequest {
    NodeUnpublishVolumeRequest {
        volume_id: volume_id(uid),
        target_path: target.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_the_kubelets() {
        let spec = PodSpec::new("web").attribute("mode", "0400").fs_group(7);
        let target = target(Path::new("/k"), "u1");
        let request = publish(&spec, "u1", &target);
        assert_eq!(request.target_path, "/k/pods/u1/volumes/kubernetes.io~csi/vsecm/mount");
        assert!(request.volume_id.starts_with("csi-"));
        assert_eq!(request.volume_id.len(), 4 + 64);
        assert!(request.readonly);
        let capability = request.volume_capability.unwrap();
        let mode = capability.access_mode.unwrap().mode;
        assert_eq!(mode, i32::from(SingleNodeWriter));
        let Some(AccessType::Mount(mount)) = capability.access_type else {
            panic!("not a mount");
        };
        assert_eq!(mount.volume_mount_group, "7");
        assert_eq!(request.volume_context.len(), 6);
        assert_eq!(request.volume_context["csi.storage.k8s.io/pod.uid"], "u1");
    }

    #[test]
    fn an_author_cannot_overwrite_what_the_kubelet_states() {
        let spec = PodSpec::new("web").attribute("csi.storage.k8s.io/pod.uid", "other");
        let request = publish(&spec, "u1", Path::new("/t"));
        assert_eq!(request.volume_context["csi.storage.k8s.io/pod.uid"], "u1");
    }
}
