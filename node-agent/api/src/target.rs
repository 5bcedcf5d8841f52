//! Where the kubelet wants a volume: [`VolumeRecord::target`](crate::volume::VolumeRecord::target), parsed.

use std::{fmt, str::FromStr};

use crate::volume::{ParseError, PodUid};

/// Why a path is not a target of ours.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TargetError {
    /// The path does not start with `/`.
    #[error("the target path is relative: it must be absolute and below {0}")]
    Relative(String),
    /// The path is elsewhere.
    #[error("the target path is not below {0}: --kubelet-dir must be the kubelet's --root-dir")]
    Elsewhere(String),
    /// The path has another shape.
    #[error("the target path is not {{kubelet}}/pods/{{uid}}/volumes/{PLUGIN}/{{name}}/{LEAF}")]
    Shape,
    /// The pod's uid is no uid.
    #[error("the target path names no pod")]
    Uid(#[source] ParseError),
}

/// `pods/<uid>/volumes/kubernetes.io~csi/<name>/mount` below the kubelet's folder. No part of it
/// can lead elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The pod that the path belongs to.
    pub pod: PodUid,
    name: String,
}

const PLUGIN: &str = "kubernetes.io~csi";

/// The folder that the plugin makes and mounts on, in the folder that the kubelet made.
pub const LEAF: &str = "mount";

impl Target {
    /// Parses the path that the kubelet gives; `kubelet` is its folder as it names it itself.
    pub fn below(kubelet: &str, path: &str) -> Result<Self, TargetError> {
        let kubelet = kubelet.trim_end_matches('/');
        if !path.starts_with('/') {
            return Err(TargetError::Relative(kubelet.to_owned()));
        }
        let inside = path.strip_prefix(kubelet).and_then(|p| p.strip_prefix('/'));
        inside.map_or_else(|| Err(TargetError::Elsewhere(kubelet.to_owned())), str::parse)
    }

    /// The folder that holds [`LEAF`], below the kubelet's.
    pub fn folder(&self) -> String {
        format!("pods/{}/volumes/{PLUGIN}/{}", self.pod, self.name)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{LEAF}", self.folder())
    }
}

impl FromStr for Target {
    type Err = TargetError;

    /// Parses the path below the kubelet's folder.
    fn from_str(text: &str) -> Result<Self, TargetError> {
        let parts: Vec<&str> = text.split('/').collect();
        let ["pods", uid, "volumes", PLUGIN, name, LEAF] = parts.as_slice() else {
            return Err(TargetError::Shape);
        };
        if matches!(*name, "" | "." | "..") || name.len() > 255 || name.contains('\0') {
            return Err(TargetError::Shape);
        }
        let (pod, name) = (uid.parse().map_err(TargetError::Uid)?, (*name).to_owned());
        Ok(Self { pod, name })
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    const KUBELET: &str = "/var/lib/kubelet";

    #[test]
    fn the_kubelets_path_is_understood() {
        let path = "/var/lib/kubelet/pods/1-a/volumes/kubernetes.io~csi/vsecm/mount";
        let target = Target::below(KUBELET, path).unwrap();
        assert_eq!(target.pod.as_str(), "1-a");
        assert_eq!(target.folder(), "pods/1-a/volumes/kubernetes.io~csi/vsecm");
        assert_eq!(target.to_string().parse(), Ok(target.clone()));
        assert_eq!(Target::below("/var/lib/kubelet/", path), Ok(target));
    }

    fn refusal(path: &str) -> TargetError {
        Target::below(KUBELET, path).unwrap_err()
    }

    #[test]
    fn a_path_that_is_relative_or_elsewhere_is_refused() {
        let kubelet = || KUBELET.to_owned();
        assert_eq!(
            refusal("pods/1/volumes/kubernetes.io~csi/v/mount"),
            TargetError::Relative(kubelet())
        );
        for path in [KUBELET, "/var/lib/kubelet2/pods/1/volumes/kubernetes.io~csi/v/mount", "/etc"]
        {
            assert_eq!(refusal(path), TargetError::Elsewhere(kubelet()), "{path}");
        }
    }

    #[test]
    fn a_path_of_another_shape_is_refused() {
        for inside in [
            "",
            "pods/1/mount",
            "/pods/1/volumes/kubernetes.io~csi/v/mount",
            "pods/1/volumes/kubernetes.io~csi/../mount",
            "pods/1/volumes/kubernetes.io~csi//mount",
            "pods/1/volumes/kubernetes.io~csi/v/mount/",
            "pods/1/volumes/kubernetes.io~csi/v/mount2",
            "pods/1/volumes/kubernetes.io~secret/v/mount",
            "pods/1/volumes/kubernetes.io~csi/v/../../../../../../../etc",
        ] {
            let path = format!("{KUBELET}/{inside}");
            assert_eq!(refusal(&path), TargetError::Shape, "{path}");
        }
        let dots = format!("{KUBELET}/pods/../volumes/kubernetes.io~csi/v/mount");
        assert!(matches!(refusal(&dots), TargetError::Uid(_)));
    }

    proptest! {
        #[test]
        fn an_accepted_path_never_escapes(
            uid in "(\\PC{0,8}|[./a-z0-9-]{0,6})",
            name in "(\\PC{0,8}|[./a-z\\x00]{0,6})",
            junk in "\\PC{0,12}",
        ) {
            for path in [
                format!("{KUBELET}/pods/{uid}/volumes/kubernetes.io~csi/{name}/mount"),
                format!("{KUBELET}/{junk}"),
                junk,
            ] {
                if let Ok(target) = Target::below(KUBELET, &path) {
                    let text = target.to_string();
                    prop_assert_eq!(format!("{}/{}", KUBELET, text), path);
                    let parts: Vec<_> = Path::new(&text).components().collect();
                    prop_assert_eq!(parts.len(), 6);
                    prop_assert!(parts.iter().all(|p| matches!(p, Component::Normal(_))));
                }
            }
        }
    }
}
