//! `NodePublishVolumeRequest` to [`VolumeRecord`]: whatever is wrong is refused here, before
//! anything is touched.

use std::{collections::HashMap, str::FromStr};

use vsecm_node_agent_api::volume::{
    FileMode, Gate, Layout, OnWithdraw, ParseError, PodRef, PodUid, VolumeOptions, VolumeRecord,
};

use crate::{
    proto::csi::v1::{
        NodePublishVolumeRequest, VolumeCapability,
        volume_capability::{AccessType, MountVolume, access_mode::Mode},
    },
    target::{Target, TargetError},
};

/// Why a publish request cannot be meant for this driver. No refusal holds an attribute's value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// A part of every request is not there.
    #[error("the request has no {0}: the kubelet gives one with every call")]
    Missing(&'static str),
    /// A volume id that is no plain word.
    #[error("the volume id cannot be used")]
    VolumeId(#[source] ParseError),
    /// The target path.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Something this driver does not have; the sentence says what to do.
    #[error("{0}")]
    Unfit(&'static str),
    /// An access mode that makes no sense for a volume of one pod.
    #[error("access mode {0} is not possible for a pod's own volume: use SINGLE_NODE_WRITER")]
    AccessMode(String),
    /// The kubelet did not say which pod it is.
    #[error("{0} is missing: the CSIDriver object of this driver must have podInfoOnMount: true")]
    NoPodInfo(&'static str),
    /// Pod information that Kubernetes would not produce.
    #[error("{0} cannot be used")]
    PodInfo(&'static str, #[source] ParseError),
    /// The target path belongs to another pod.
    #[error("the target path belongs to the pod with uid {path}, the request is for {pod}")]
    ForeignPod {
        /// The uid in the path.
        path: PodUid,
        /// The uid in the pod information.
        pod: PodUid,
    },
    /// An attribute nobody knows; its name, shortened.
    #[error("volumeAttributes has {0:?}: only layout, document, mode, optional, onWithdraw exist")]
    UnknownAttribute(String),
    /// A known attribute with a value that is not possible, and what is.
    #[error("the volume attribute {0} must be {1}")]
    Attribute(&'static str, &'static str),
}

const BLOCK: &str = "a secret is files, not a block device: use volumeMounts, not volumeDevices";
const FLAGS: &str = "mount options are not possible: the driver sets its own, take them out";
const SECRETS: &str = "this driver reads no Kubernetes Secret: take nodePublishSecretRef out";
const WRITABLE: &str = "the volume is read-only: set readOnly: true beside driver in the pod";
const GROUP: &str = "the volume mount group is no group id: fsGroup is a number below 4294967295";

/// Parses a request. `kubelet` is the kubelet's folder as it names it itself.
pub fn parse(request: &NodePublishVolumeRequest, kubelet: &str) -> Result<VolumeRecord, Refusal> {
    if request.volume_id.is_empty() {
        return Err(Refusal::Missing("volume id"));
    }
    if request.target_path.is_empty() {
        return Err(Refusal::Missing("target path"));
    }
    let volume = request.volume_id.parse().map_err(Refusal::VolumeId)?;
    let target = Target::below(kubelet, &request.target_path)?;
    let group = group_of(mount_of(request.volume_capability.as_ref())?)?;
    let context = &request.volume_context;
    let inline = context
        .get("csi.storage.k8s.io/ephemeral")
        .is_some_and(|e| e == "true");
    if !request.secrets.is_empty() {
        return Err(Refusal::Unfit(SECRETS));
    }
    if inline && !request.readonly {
        return Err(Refusal::Unfit(WRITABLE));
    }
    let pod = PodRef {
        namespace: pod_info(context, "csi.storage.k8s.io/pod.namespace")?,
        name: pod_info(context, "csi.storage.k8s.io/pod.name")?,
        uid: pod_info(context, "csi.storage.k8s.io/pod.uid")?,
        service_account: pod_info(context, "csi.storage.k8s.io/serviceAccount.name")?,
    };
    if pod.uid != target.pod {
        let (path, pod) = (target.pod, pod.uid);
        return Err(Refusal::ForeignPod { path, pod });
    }
    let (options, target) = (options_of(context, group)?, target.to_string());
    Ok(VolumeRecord {
        volume,
        pod,
        options,
        target,
    })
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

fn group_of(mount: &MountVolume) -> Result<Option<u32>, Refusal> {
    let text = mount.volume_mount_group.as_str();
    if text.is_empty() {
        return Ok(None);
    }
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    // the last number is "no group" to the kernel
    let group = text
        .parse()
        .ok()
        .filter(|group| digits && *group != u32::MAX);
    group.map(Some).ok_or(Refusal::Unfit(GROUP))
}

fn pod_info<T: FromStr<Err = ParseError>>(
    context: &HashMap<String, String>,
    key: &'static str,
) -> Result<T, Refusal> {
    let text = context.get(key).ok_or(Refusal::NoPodInfo(key))?;
    text.parse().map_err(|e| Refusal::PodInfo(key, e))
}

const DOCUMENT: Refusal = Refusal::Attribute(
    "document",
    "a file name of at most 255 bytes without '/' that does not start with '..'",
);
const MODE: Refusal = Refusal::Attribute("mode", "octal permission bits, \"0001\" to \"0777\"");

fn options_of(
    context: &HashMap<String, String>,
    group: Option<u32>,
) -> Result<VolumeOptions, Refusal> {
    let default_mode = if group.is_some() { "0440" } else { "0444" };
    let mut options = VolumeOptions {
        layout: Layout::Files,
        document: "secrets.json".parse().map_err(|_rule| DOCUMENT)?,
        mode: mode_of(default_mode)?,
        gate: Gate::Required,
        on_withdraw: OnWithdraw::Keep,
        group,
    };
    for (key, value) in context {
        match (key.as_str(), value.as_str()) {
            ("layout", "files") => options.layout = Layout::Files,
            ("layout", "document") => options.layout = Layout::Document,
            ("layout", _) => return Err(Refusal::Attribute("layout", "files or document")),
            ("document", name) => options.document = name.parse().map_err(|_rule| DOCUMENT)?,
            ("mode", text) => options.mode = mode_of(text)?,
            ("optional", "true") => options.gate = Gate::Optional,
            ("optional", "false") => options.gate = Gate::Required,
            ("optional", _) => return Err(Refusal::Attribute("optional", "\"true\" or \"false\"")),
            ("onWithdraw", "keep") => options.on_withdraw = OnWithdraw::Keep,
            ("onWithdraw", "revoke") => options.on_withdraw = OnWithdraw::Revoke,
            ("onWithdraw", _) => return Err(Refusal::Attribute("onWithdraw", "keep or revoke")),
            (key, _) if key.starts_with("csi.storage.k8s.io/") => {}
            (key, _) => return Err(Refusal::UnknownAttribute(key.chars().take(80).collect())),
        }
    }
    Ok(options)
}

fn mode_of(text: &str) -> Result<FileMode, Refusal> {
    let octal = matches!(text.len(), 3 | 4) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let bits = u16::from_str_radix(text, 8)
        .ok()
        .filter(|_| octal)
        .ok_or(MODE)?;
    bits.try_into().map_err(|_rule| MODE)
}
