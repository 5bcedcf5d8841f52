//! `NodePublishVolumeRequest` to [`VolumeRecord`]: whatever is wrong is refused here, before
//! anything is touched.

use vsecm_node_agent_api::{
    attributes::{self, AttributeError},
    target::{Target, TargetError},
    volume::{InodeKey, ParseError, PodUid, VolumeRecord},
};

use crate::{
    operator::{Contradiction, Operator},
    proto::v1::{
        NodePublishVolumeRequest, VolumeCapability,
        volume_capability::{AccessType, MountVolume, access_mode::Mode},
    },
};

/// Why a publish request cannot be meant for this driver. No refusal holds an attribute's value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// A part of every request is not there.
    #[error("the request has no {0}: the kubelet gives one with every call")]
    Missing(&'static str),
    /// The target path.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Something this driver does not have; the sentence says what to do.
    #[error("{0}")]
    Unfit(&'static str),
    /// An access mode that makes no sense for a volume of one pod.
    #[error("access mode {0} is not possible for a pod's own volume: use SINGLE_NODE_WRITER")]
    AccessMode(String),
    /// A volume id that Kubernetes would not produce.
    #[error("the volume id cannot be used")]
    VolumeId(#[from] ParseError),
    /// The target path belongs to another pod.
    #[error("the target path belongs to the pod with uid {path}, the request is for {pod}")]
    ForeignPod {
        /// The uid in the path.
        path: PodUid,
        /// The uid in the pod information.
        pod: PodUid,
    },
    /// An attribute, or what the kubelet says of the pod.
    #[error(transparent)]
    Attribute(#[from] AttributeError),
    /// An attribute on which the operator has the last word.
    #[error(transparent)]
    Operator(#[from] Contradiction),
    /// The `CSIDriver` object asks for what this driver neither wants nor reads.
    #[error("this driver takes no service account token: take tokenRequests out of its CSIDriver")]
    Tokens,
}

impl Refusal {
    /// Whether it is the operator's to heal: not for ever then, and no reason to disturb a volume
    /// that is up already.
    pub(crate) fn can_heal(&self) -> bool {
        matches!(
            self,
            Self::Tokens | Self::Operator(_) | Self::Attribute(AttributeError::NoPodInfo(_))
        )
    }
}

const BLOCK: &str = "a secret is files, not a block device: use volumeMounts, not volumeDevices";
const FLAGS: &str = "mount options are not possible: the driver sets its own, take them out";
const SECRETS: &str = "this driver reads no Kubernetes Secret: take nodePublishSecretRef out";
const WRITABLE: &str = "the volume is read-only: set readOnly: true beside driver in the pod";

const STAGED: &str = "the request has a staging path: this driver has no staging";
const PERSISTENT: &str = "a persistent volume is not possible: name the driver in the pod itself";

const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// Refuses an empty text.
pub(crate) fn required(what: &'static str, text: &str) -> Result<(), Refusal> {
    if text.is_empty() { Err(Refusal::Missing(what)) } else { Ok(()) }
}

/// Parses a request. `kubelet` is the kubelet's folder as it names it itself, `inode_key` a new one.
pub fn parse(
    request: &NodePublishVolumeRequest,
    kubelet: &str,
    operator: &Operator,
    inode_key: InodeKey,
) -> Result<VolumeRecord, Refusal> {
    required("volume id", &request.volume_id)?;
    required("target path", &request.target_path)?;
    let (volume, context) = (request.volume_id.parse()?, &request.volume_context);
    let target = Target::below(kubelet, &request.target_path)?;
    let mount = mount_of(request.volume_capability.as_ref())?;
    if context.contains_key(TOKENS) || request.secrets.contains_key(TOKENS) {
        return Err(Refusal::Tokens);
    }
    let inline = context.get(EPHEMERAL).ok_or(AttributeError::NoPodInfo(EPHEMERAL))? == "true";
    let unfit = [
        (!request.secrets.is_empty(), SECRETS),
        (!request.staging_target_path.is_empty(), STAGED),
        (!inline, PERSISTENT),
        (!request.readonly, WRITABLE),
    ];
    if let Some((_, sentence)) = unfit.into_iter().find(|(is, _)| *is) {
        return Err(Refusal::Unfit(sentence));
    }
    let pod = attributes::pod(context)?;
    if pod.uid != target.pod {
        return Err(Refusal::ForeignPod { path: target.pod, pod: pod.uid });
    }
    let context = operator.complete(context.clone())?;
    let options = attributes::options(&context, &mount.volume_mount_group)?;
    Ok(VolumeRecord { volume, pod, options, target: target.to_string(), inode_key })
}

fn mount_of(capability: Option<&VolumeCapability>) -> Result<&MountVolume, Refusal> {
    let capability = capability.ok_or(Refusal::Missing("volume capability"))?;
    let mount = match &capability.access_type {
        Some(AccessType::Mount(mount)) => mount,
        Some(AccessType::Block(_)) => return Err(Refusal::Unfit(BLOCK)),
        None => return Err(Refusal::Missing("access type in its volume capability")),
    };
    if !mount.mount_flags.is_empty() {
        return Err(Refusal::Unfit(FLAGS));
    }
    let number = capability.access_mode.map_or(0, |mode| mode.mode);
    match Mode::try_from(number) {
        Err(_unknown) => Err(Refusal::AccessMode(number.to_string())),
        Ok(mode @ (Mode::Unknown | Mode::MultiNodeSingleWriter | Mode::MultiNodeMultiWriter)) => {
            Err(Refusal::AccessMode(mode.as_str_name().to_owned()))
        }
        Ok(_) => Ok(mount),
    }
}

// last: what stands before is held to be pure (.ci/edges.sh)
#[cfg(test)]
pub(crate) mod tests;
