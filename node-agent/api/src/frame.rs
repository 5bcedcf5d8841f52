//! The frames of the three conversations.
//!
//! | conversation | socket of | shape |
//! |---|---|---|
//! | csi → node-agent | node-agent | one [`AgentRequest`], one [`AgentReply`] per connection |
//! | node-agent → csi | node-agent (csi dials and sends [`AgentRequest::Duty`]) | many [`Order`]s, each with an [`OrderReply`] of the same id |
//! | csi, node-agent → keeper | keeper | [`KeeperRequest`], [`KeeperReply`], repeated on one connection |

use serde::{Deserialize, Serialize};

use crate::volume::{VersionDir, VolumeId, VolumeRecord};

/// Bytes in one frame at most. The kernel's default send buffer is 208 KiB; the largest frame,
/// a page of [`PAGE`] records, stays below 40 KiB, whatever their names are made of.
pub const FRAME_LIMIT: usize = 64 * 1024;

/// Descriptors in one frame at most.
pub const DESCRIPTOR_LIMIT: usize = 2;

/// Records or keys in one page of a list.
pub const PAGE: usize = 8;

/// Bytes in a sentence ([`AgentReply::Waiting`], …) at most; longer ones are cut.
pub const SENTENCE_LIMIT: usize = 2048;

/// csi asks node-agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum AgentRequest {
    /// Get the volume's content into memory; answered when it is there, or at the end of the hold.
    /// Idempotent: a second call for the same record joins the first.
    /// Replies: `Ready`, `Waiting`, `Withdrawn`, `Refused`.
    Attach {
        /// The volume.
        record: VolumeRecord,
        /// Milliseconds to wait at most.
        hold_ms: u64,
    },
    /// Serve an attached volume on the `/dev/fuse` descriptor that comes with this frame; answered
    /// when the kernel's INIT has been answered. Replies: `Served`, `Refused`.
    Serve {
        /// The volume.
        volume: VolumeId,
    },
    /// Go on serving an already initialised descriptor, which comes with this frame, unless this
    /// process serves the volume already. Replies: `Served`, `Refused`.
    Resume {
        /// The volume.
        record: VolumeRecord,
    },
    /// Forget the volume. Replies: `Done`, also for an unknown volume.
    Detach {
        /// The volume.
        volume: VolumeId,
    },
    /// Is the volume served by this process, and what does it hold? Replies: `State`.
    State {
        /// The volume.
        volume: VolumeId,
    },
    /// This connection now carries [`Order`]s from node-agent to csi. Replies: `Done` first.
    Duty,
}

/// node-agent answers csi.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum AgentReply {
    /// The content is in memory (or the volume is optional): mount now.
    Ready,
    /// The hold ended; why, in words for `kubectl describe pod`.
    Waiting {
        /// The reason and what to do.
        reason: String,
    },
    /// The wait ended because SPIRE took the pod's identity away: the pod is probably gone.
    Withdrawn {
        /// The reason in words.
        reason: String,
    },
    /// This process serves the volume.
    Served,
    /// State of a volume.
    State {
        /// Whether this process answers the kernel for the volume.
        serving: Serving,
        /// What an operator should know (identity withdrawn, safe unreachable since …), if anything.
        condition: Option<String>,
        /// Bytes of content shown.
        bytes: u64,
        /// Files shown.
        files: u64,
    },
    /// Done.
    Done,
    /// The request cannot be done; nothing changed.
    Refused {
        /// Why, in words.
        reason: String,
    },
}

/// Whether a process answers the kernel for a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Serving {
    /// It does.
    Yes,
    /// The volume is unknown, or attached but not yet served.
    No,
}

/// node-agent asks csi, on a duty connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Matches the reply to the order; unique on the connection.
    pub id: u64,
    /// The volume.
    pub volume: VolumeId,
    /// The version to publish: its folder is in the tree already. node-agent takes the folder of
    /// the version before away by itself.
    pub publish: VersionDir,
}

/// csi answers an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderReply {
    /// The order's id.
    pub id: u64,
    /// What came of it.
    pub outcome: OrderOutcome,
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum OrderOutcome {
    /// `..data` shows the new version, the names at the root fit it.
    Swapped,
    /// csi knows no such volume.
    UnknownVolume,
    /// The swap failed and may be tried again.
    Failed {
        /// Why, in words.
        reason: String,
    },
}

/// Which of a volume's descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Descriptor {
    /// `/dev/fuse`, initialised.
    Fuse,
    /// The private read-write mount.
    Mount,
}

/// The name of a content memfd: chosen by node-agent, meaningless to the keeper.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContentKey(VolumeId);

impl TryFrom<String> for ContentKey {
    type Error = crate::volume::ParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        VolumeId::try_from(text).map(Self)
    }
}

impl From<ContentKey> for String {
    fn from(key: ContentKey) -> Self {
        key.0.into()
    }
}

/// csi or node-agent asks the keeper. Who may ask what: csi everything about volumes; node-agent
/// may list volumes and get their `Fuse` descriptor, and everything about content; nobody else anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum KeeperRequest {
    /// Keep a volume's record and the descriptor that comes with this frame. Replies: `Done`, `Refused`.
    PutVolume {
        /// The volume.
        record: VolumeRecord,
        /// Which descriptor it is.
        descriptor: Descriptor,
    },
    /// The records after `after` in the order of their ids, at most [`PAGE`]. Replies: `Volumes`.
    ListVolumes {
        /// The last id of the page before.
        after: Option<VolumeId>,
    },
    /// A volume's descriptor. Replies: `Descriptor` with the descriptor, `Unknown`.
    GetVolume {
        /// The volume.
        volume: VolumeId,
        /// Which one.
        descriptor: Descriptor,
    },
    /// Forget a volume and close its descriptors. Replies: `Done`, also for an unknown volume.
    RemoveVolume {
        /// The volume.
        volume: VolumeId,
    },
    /// Keep the sealed memfd that comes with this frame. Replies: `Done`, `Refused`.
    PutContent {
        /// Its name.
        key: ContentKey,
    },
    /// The keys after `after`, at most [`PAGE`]. Replies: `Contents`.
    ListContents {
        /// The last key of the page before.
        after: Option<ContentKey>,
    },
    /// A memfd. Replies: `Descriptor` with the memfd, `Unknown`.
    GetContent {
        /// Its name.
        key: ContentKey,
    },
    /// Forget a memfd. Replies: `Done`, also for an unknown key.
    RemoveContent {
        /// Its name.
        key: ContentKey,
    },
}

/// Who asks the keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything about volumes.
    Csi,
    /// The list of volumes, their `/dev/fuse`, and everything about content.
    NodeAgent,
}

impl Role {
    /// Whether the role may ask this.
    pub fn may(self, request: &KeeperRequest) -> bool {
        match request {
            KeeperRequest::ListVolumes { .. }
            | KeeperRequest::GetVolume { descriptor: Descriptor::Fuse, .. } => true,
            KeeperRequest::PutVolume { .. }
            | KeeperRequest::GetVolume { .. }
            | KeeperRequest::RemoveVolume { .. } => self == Self::Csi,
            KeeperRequest::PutContent { .. }
            | KeeperRequest::ListContents { .. }
            | KeeperRequest::GetContent { .. }
            | KeeperRequest::RemoveContent { .. } => self == Self::NodeAgent,
        }
    }
}

/// The keeper answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum KeeperReply {
    /// Done.
    Done,
    /// A page of records; an empty page ends the list.
    Volumes {
        /// The records.
        records: Vec<VolumeRecord>,
    },
    /// A page of keys; an empty page ends the list.
    Contents {
        /// The keys.
        keys: Vec<ContentKey>,
    },
    /// The descriptor that comes with this frame.
    Descriptor,
    /// There is no such entry.
    Unknown,
    /// Not allowed to this peer, or over a bound; nothing changed.
    Refused {
        /// Why, in words.
        reason: String,
    },
}

/// Cuts a sentence to [`SENTENCE_LIMIT`] bytes at a character's border.
pub fn sentence(mut text: String) -> String {
    let mut end = SENTENCE_LIMIT.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::{
        Audit, FileMode, Gate, Layout, ObjectName, OnRotate, OnWithdraw, PodRef, PodUid,
        VolumeOptions,
    };

    #[test]
    fn a_page_of_the_widest_records_is_one_frame() {
        // JSON makes six bytes of a control character, and a pod's author may write 255 of them
        let wide = "\u{1}".repeat(255);
        let label = "n".repeat(253).parse::<ObjectName>().unwrap();
        let uid = "1".repeat(64).parse::<PodUid>().unwrap();
        let record = VolumeRecord {
            volume: "v".repeat(128).parse().unwrap(),
            target: format!("pods/{uid}/volumes/kubernetes.io~csi/{wide}/mount"),
            pod: PodRef {
                namespace: label.clone(),
                name: label.clone(),
                uid,
                service_account: label,
            },
            options: VolumeOptions {
                layout: Layout::Document,
                document: wide.parse().unwrap(),
                mode: FileMode::try_from(0o444).unwrap(),
                gate: Gate::Required,
                on_withdraw: OnWithdraw::Revoke,
                audit: Audit::Off,
                on_rotate: OnRotate::Follow,
                group: Some(u32::MAX - 1),
            },
        };
        let records = vec![record; PAGE];
        let page = serde_json::to_vec(&KeeperReply::Volumes { records }).unwrap();
        assert!(page.len() <= FRAME_LIMIT, "{} bytes", page.len());
    }
}
