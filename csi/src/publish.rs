//! `NodePublishVolumeRequest` to [`VolumeRecord`]: whatever is wrong is refused here, before
//! anything is touched.

use std::collections::HashMap;

use vsecm_node_agent_api::volume::{
    FileMode, FileName, Gate, Layout, OnWithdraw, ParseError, PodRef, PodUid, VolumeOptions,
    VolumeRecord,
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
    /// No volume id.
    #[error("the request has no volume id: the kubelet makes one for each inline volume")]
    NoVolumeId,
    /// A volume id that is no plain word.
    #[error("the volume id cannot be used")]
    VolumeId(#[source] ParseError),
    /// The target path.
    #[error("the volume cannot be mounted there")]
    Target(#[source] TargetError),
    /// No capability.
    #[error(
        "the request has no volume capability: it must say access type mount and an access mode"
    )]
    NoCapability,
    /// No access type.
    #[error("the volume capability has no access type: it must be mount")]
    NoAccessType,
    /// A block device is asked for.
    #[error(
        "a secret is files, not a block device: use the volume by volumeMounts, not volumeDevices"
    )]
    Block,
    /// An access mode that makes no sense for a volume of one pod.
    #[error(
        "access mode {mode} is not possible for a volume of one pod: SINGLE_NODE_WRITER is what the kubelet sends"
    )]
    AccessMode {
        /// Its published name.
        mode: String,
    },
    /// Mount options.
    #[error("mount options are not possible: the driver sets its own")]
    MountFlags,
    /// `nodePublishSecretRef`.
    #[error(
        "this driver reads no Kubernetes Secret: take nodePublishSecretRef out of the pod's volume"
    )]
    Secrets,
    /// The pod asks to write.
    #[error("the volume is read-only: set readOnly: true in the pod's volume, beside driver")]
    NotReadOnly,
    /// The kubelet did not say which pod it is.
    #[error("{key} is missing: the CSIDriver object of this driver must have podInfoOnMount: true")]
    NoPodInfo {
        /// What is missing.
        key: &'static str,
    },
    /// Pod information that Kubernetes would not produce.
    #[error("{key} cannot be used")]
    PodInfo {
        /// Which one.
        key: &'static str,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// The target path belongs to another pod.
    #[error("the target path belongs to the pod with uid {path}, the request is for {pod}")]
    ForeignPod {
        /// The uid in the path.
        path: PodUid,
        /// The uid in the pod information.
        pod: PodUid,
    },
    /// An attribute nobody knows.
    #[error(
        "the volume attribute {name:?} is not known, known are layout, document, mode, optional and onWithdraw: correct or remove it in the pod's volumeAttributes"
    )]
    UnknownAttribute {
        /// Its name, shortened.
        name: String,
    },
    /// A known attribute with a value that is not possible.
    #[error("the volume attribute {name} must be {rule}")]
    Attribute {
        /// Its name.
        name: &'static str,
        /// What it may be.
        rule: &'static str,
    },
    /// `fsGroup` is no group id.
    #[error("the volume mount group is not a group id: fsGroup is a number below 4294967295")]
    Group,
}

const KUBELET_PREFIX: &str = "csi.storage.k8s.io/";
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";

/// Parses a request. `kubelet` is the kubelet's folder as it names it itself.
pub fn parse(request: &NodePublishVolumeRequest, kubelet: &str) -> Result<VolumeRecord, Refusal> {
    if request.volume_id.is_empty() {
        return Err(Refusal::NoVolumeId);
    }
    let volume = request.volume_id.parse().map_err(Refusal::VolumeId)?;
    let target = Target::below(kubelet, &request.target_path).map_err(Refusal::Target)?;
    let mount = mount_of(request.volume_capability.as_ref())?;
    if !request.secrets.is_empty() {
        return Err(Refusal::Secrets);
    }
    let context = &request.volume_context;
    if context.get(EPHEMERAL).is_some_and(|e| e == "true") && !request.readonly {
        return Err(Refusal::NotReadOnly);
    }
    let pod = pod_of(context)?;
    if pod.uid != *target.pod() {
        return Err(Refusal::ForeignPod {
            path: target.pod().clone(),
            pod: pod.uid,
        });
    }
    Ok(VolumeRecord {
        volume,
        pod,
        options: options_of(context, group_of(mount)?)?,
        target: target.to_string(),
    })
}

fn mount_of(capability: Option<&VolumeCapability>) -> Result<&MountVolume, Refusal> {
    let capability = capability.ok_or(Refusal::NoCapability)?;
    let mount = match &capability.access_type {
        Some(AccessType::Mount(mount)) => mount,
        Some(AccessType::Block(_)) => return Err(Refusal::Block),
        None => return Err(Refusal::NoAccessType),
    };
    if !mount.mount_flags.is_empty() {
        return Err(Refusal::MountFlags);
    }
    let number = capability.access_mode.map_or(0, |mode| mode.mode);
    match Mode::try_from(number) {
        Ok(
            Mode::SingleNodeWriter
            | Mode::SingleNodeReaderOnly
            | Mode::MultiNodeReaderOnly
            | Mode::SingleNodeSingleWriter
            | Mode::SingleNodeMultiWriter,
        ) => Ok(mount),
        Ok(mode) => {
            let mode = mode.as_str_name().to_owned();
            Err(Refusal::AccessMode { mode })
        }
        Err(_unknown) => {
            let mode = number.to_string();
            Err(Refusal::AccessMode { mode })
        }
    }
}

fn group_of(mount: &MountVolume) -> Result<Option<u32>, Refusal> {
    match mount.volume_mount_group.as_str() {
        "" => Ok(None),
        text if text.bytes().all(|b| b.is_ascii_digit()) => text
            .parse()
            .ok()
            // the last number is "no group" to the kernel
            .filter(|group| *group != u32::MAX)
            .map(Some)
            .ok_or(Refusal::Group),
        _ => Err(Refusal::Group),
    }
}

fn pod_of(context: &HashMap<String, String>) -> Result<PodRef, Refusal> {
    fn noun<T: std::str::FromStr<Err = ParseError>>(
        context: &HashMap<String, String>,
        key: &'static str,
    ) -> Result<T, Refusal> {
        let text = context.get(key).ok_or(Refusal::NoPodInfo { key })?;
        text.parse()
            .map_err(|source| Refusal::PodInfo { key, source })
    }
    Ok(PodRef {
        namespace: noun(context, "csi.storage.k8s.io/pod.namespace")?,
        name: noun(context, "csi.storage.k8s.io/pod.name")?,
        uid: noun(context, "csi.storage.k8s.io/pod.uid")?,
        service_account: noun(context, "csi.storage.k8s.io/serviceAccount.name")?,
    })
}

fn options_of(
    context: &HashMap<String, String>,
    group: Option<u32>,
) -> Result<VolumeOptions, Refusal> {
    let default_mode = if group.is_some() { 0o440 } else { 0o444 };
    let mut options = VolumeOptions {
        layout: Layout::Files,
        document: named("document", "a file name", "secrets.json".parse().ok())?,
        mode: mode(default_mode)?,
        gate: Gate::Required,
        on_withdraw: OnWithdraw::Keep,
        group,
    };
    for (key, value) in context {
        match key.as_str() {
            "layout" => {
                let layout = match value.as_str() {
                    "files" => Some(Layout::Files),
                    "document" => Some(Layout::Document),
                    _ => None,
                };
                options.layout = named("layout", "files or document", layout)?;
            }
            "document" => {
                let rule =
                    "a file name of at most 255 bytes without '/' that does not start with '..'";
                options.document = named("document", rule, value.parse::<FileName>().ok())?;
            }
            "mode" => {
                let octal = (3..=4).contains(&value.len())
                    && value.bytes().all(|b| (b'0'..=b'7').contains(&b));
                let bits = u16::from_str_radix(value, 8).ok().filter(|_| octal);
                options.mode = mode(bits.unwrap_or(0))?;
            }
            "optional" => {
                let gate = match value.as_str() {
                    "true" => Some(Gate::Optional),
                    "false" => Some(Gate::Required),
                    _ => None,
                };
                options.gate = named("optional", "\"true\" or \"false\", quoted", gate)?;
            }
            "onWithdraw" => {
                let choice = match value.as_str() {
                    "keep" => Some(OnWithdraw::Keep),
                    "revoke" => Some(OnWithdraw::Revoke),
                    _ => None,
                };
                options.on_withdraw = named("onWithdraw", "keep or revoke", choice)?;
            }
            key if key.starts_with(KUBELET_PREFIX) => {}
            key => {
                let name = key.chars().take(80).collect();
                return Err(Refusal::UnknownAttribute { name });
            }
        }
    }
    Ok(options)
}

fn named<T>(name: &'static str, rule: &'static str, value: Option<T>) -> Result<T, Refusal> {
    value.ok_or(Refusal::Attribute { name, rule })
}

fn mode(bits: u16) -> Result<FileMode, Refusal> {
    let rule = "octal permission bits between \"0001\" and \"0777\", quoted";
    named("mode", rule, FileMode::try_from(bits).ok())
}
