//! The frames of the three conversations.
//!
//! | conversation | socket of | shape |
//! |---|---|---|
//! | csi → node-agent | node-agent | one [`AgentRequest`], one [`AgentReply`] per connection |
//! | node-agent → csi | node-agent (csi dials and sends [`AgentRequest::Duty`]) | many [`Order`]s, each with an [`OrderReply`] of the same id |
//! | csi, node-agent → keeper | keeper | [`KeeperRequest`], [`KeeperReply`], repeated on one connection |
//!
//! Every frame carries [`VERSION`]. The three processes are not upgraded together, the keeper last: a
//! frame may get new fields, which an older process does not see, and new requests, which it refuses
//! in words. What a field meant it means for ever.

use serde::{Deserialize, Serialize};

use crate::{
    listing::Listed,
    volume::{InodeKey, VersionDir, VolumeId, VolumeRecord},
};

/// The version of the frames: raised with every change, so that a peer that does not understand one
/// can say which of the two is older.
pub const VERSION: u32 = 2;

/// A record as the keeper holds it, whatever is in it.
pub type RawRecord = serde_json::Value;

/// Bytes in one frame at most. The kernel's default send buffer is 208 KiB; the largest frame,
/// a page of [`PAGE`] records, stays below 56 KiB, whatever their names are made of.
pub const FRAME_LIMIT: usize = 64 * 1024;

/// Descriptors in one frame at most.
pub const DESCRIPTOR_LIMIT: usize = 2;

/// Records or keys in one page of a list.
pub const PAGE: usize = 4;

/// Bytes in a sentence ([`AgentReply::Waiting`], …) at most; longer ones are cut.
pub const SENTENCE_LIMIT: usize = 2048;

/// csi asks node-agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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
        /// The key that is in the record which the descriptor is deposited with: not always that
        /// of the record which was attached, as a csi in between may have died.
        inode_key: InodeKey,
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
    /// The volumes after `after` in the order of their ids, at most [`PAGE`]. Replies: `Volumes`.
    Volumes {
        /// The last id of the page before.
        after: Option<VolumeId>,
    },
    /// This connection now carries [`Order`]s from node-agent to csi. Replies: `Done` first.
    Duty,
}

/// node-agent answers csi.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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
        /// How grave that is.
        gravity: Gravity,
        /// Bytes of content shown.
        bytes: u64,
        /// Files shown.
        files: u64,
    },
    /// A page of volumes; an empty page ends the list.
    Volumes {
        /// The volumes.
        volumes: Vec<Listed>,
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

/// Folders named in one [`Step`] at most.
pub const DIR_LIMIT: usize = 64;

/// Bytes of binds, as JSON, in one [`OrderOutcome::Binds`] at most.
pub const BINDS_LIMIT: usize = FRAME_LIMIT / 2;

/// How grave a volume's condition is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gravity {
    /// It may pass by itself.
    #[default]
    Passing,
    /// Somebody should look after the volume: the kubelet is told that it is abnormal.
    Abnormal,
}

/// node-agent asks csi, on a duty connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Matches the reply to the order; unique on the connection.
    pub id: u64,
    /// The volume.
    pub volume: VolumeId,
    /// What is to be done with it.
    pub step: Step,
}

/// What node-agent, which knows the content and no mounts, has csi do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Publish a version, with the file operations of a Kubernetes Secret volume except the removal
    /// of the old folders. Outcome: `Swapped`.
    Publish {
        /// The version's folder.
        dir: VersionDir,
        /// Folders whose files are unlinked once readers see the new version, at most
        /// [`DIR_LIMIT`].
        replaced: Vec<VersionDir>,
    },
    /// Remove folders that no path walk can be inside any more, except those that a mount shows.
    /// Outcome: `Retired`.
    Retire {
        /// The folders, at most [`DIR_LIMIT`].
        dirs: Vec<VersionDir>,
    },
    /// Tell which mounts show a part of a version: subPath mounts. Outcome: `Binds`.
    Binds {
        /// How many are known from the pages before.
        skip: usize,
    },
}

/// A mount whose root is a version's folder, or something in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Bind {
    /// The version's folder.
    pub dir: VersionDir,
    /// The path in it; empty for the folder itself.
    pub path: String,
    /// The inode that is mounted, where csi can tell without asking the server.
    pub ino: Option<u64>,
}

/// csi answers an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderReply {
    /// The order's id.
    pub id: u64,
    /// What came of it.
    pub outcome: OrderOutcome,
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OrderOutcome {
    /// `..data` shows the new version, the names at the root fit it.
    Swapped,
    /// The folders are gone, but for those that a mount shows.
    Retired,
    /// A page of mounts.
    Binds {
        /// In their order, the same on each page.
        binds: Vec<Bind>,
        /// How many come after these.
        left: usize,
    },
    /// csi knows no such volume.
    UnknownVolume,
    /// The step failed and may be tried again.
    Failed {
        /// Why, in words.
        reason: String,
    },
}

impl OrderOutcome {
    /// What fits into one frame of the `binds` after the first `skip`.
    pub fn page(mut binds: Vec<Bind>, skip: usize) -> Self {
        binds.drain(..skip.min(binds.len()));
        let mut room = BINDS_LIMIT;
        let fits = |bind: &&Bind| {
            let length = serde_json::to_vec(bind).map_or(usize::MAX, |json| json.len() + 1);
            let rest = room.checked_sub(length);
            room = rest.unwrap_or_default();
            rest.is_some()
        };
        let count = binds.iter().take_while(fits).count();
        let left = binds.split_off(count).len();
        Self::Binds { binds, left }
    }
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
#[serde(rename_all = "kebab-case")]
pub enum KeeperRequest<R = VolumeRecord> {
    /// Keep a volume's record and the descriptor that comes with this frame. Replies: `Done`, `Refused`.
    PutVolume {
        /// The volume. The keeper keeps what it does not understand, too.
        record: R,
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
    pub fn may<R>(self, request: &KeeperRequest<R>) -> bool {
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
#[serde(rename_all = "kebab-case")]
pub enum KeeperReply<R = VolumeRecord> {
    /// Done.
    Done,
    /// A page of records; an empty page ends the list.
    Volumes {
        /// The records.
        records: Vec<R>,
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
pub fn sentence(text: String) -> String {
    cut(text, SENTENCE_LIMIT)
}

/// Cuts a text to `limit` bytes at a character's border.
pub(crate) fn cut(mut text: String, limit: usize) -> String {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        items::TEXT_LIMIT,
        volume::{
            Audit, FileMode, Gate, Layout, ObjectName, OnRotate, OnWithdraw, PodRef, PodUid,
            VolumeOptions,
        },
    };

    #[test]
    fn the_widest_order_and_the_widest_page_of_binds_are_one_frame() {
        let dir = format!("..{}", "9".repeat(64)).parse::<VersionDir>().unwrap();
        let dirs = vec![dir.clone(); DIR_LIMIT];
        let step = Step::Publish { dir: dir.clone(), replaced: dirs };
        let order = Order { id: u64::MAX, volume: "v".repeat(128).parse().unwrap(), step };
        assert!(serde_json::to_vec(&order).unwrap().len() <= FRAME_LIMIT);
        // the kernel bounds a path
        let bind = Bind { dir, path: "\u{1}".repeat(4096), ino: Some(u64::MAX) };
        assert!(serde_json::to_vec(&bind).unwrap().len() <= BINDS_LIMIT);
    }

    #[test]
    fn binds_are_told_in_pages_that_fit_a_frame_and_none_is_left_out() {
        let bind = |number: u64| Bind {
            dir: "..1".parse().unwrap(),
            path: "\u{1}".repeat(2000),
            ino: Some(number),
        };
        let all: Vec<Bind> = (0..20).map(bind).collect();
        let mut told = Vec::new();
        loop {
            let OrderOutcome::Binds { binds, left } = OrderOutcome::page(all.clone(), told.len())
            else {
                panic!("a page");
            };
            assert!(serde_json::to_vec(&binds).unwrap().len() <= BINDS_LIMIT + 2);
            told.extend(binds);
            assert_eq!(told.len() + left, all.len());
            if left == 0 {
                break;
            }
        }
        assert_eq!(told, all);
        let beyond = OrderOutcome::page(all, 100);
        assert_eq!(beyond, OrderOutcome::Binds { binds: Vec::new(), left: 0 });
    }

    #[test]
    fn a_page_of_the_widest_records_is_one_frame() {
        // JSON makes six bytes of a control character, and two of what an author may write
        let (control, wide) = ("\u{1}".repeat(255), "\"".repeat(255));
        let items = format!("{}=p", "\"".repeat(TEXT_LIMIT - 2));
        let label = "n".repeat(253).parse::<ObjectName>().unwrap();
        let uid = "1".repeat(64).parse::<PodUid>().unwrap();
        let record = VolumeRecord {
            volume: "v".repeat(128).parse().unwrap(),
            target: format!("pods/{uid}/volumes/kubernetes.io~csi/{control}/mount"),
            pod: PodRef {
                namespace: label.clone(),
                name: label.clone(),
                uid,
                service_account: label,
            },
            options: VolumeOptions {
                layout: Layout::Document,
                document: wide.parse().unwrap(),
                items: items.parse().unwrap(),
                mode: FileMode::try_from(0o444).unwrap(),
                gate: Gate::Required,
                on_withdraw: OnWithdraw::Revoke,
                audit: Audit::Off,
                on_rotate: OnRotate::Follow,
                group: Some(u32::MAX - 1),
            },
            inode_key: InodeKey::from_random([0; 16]),
        };
        let records = vec![record; PAGE];
        let page = serde_json::to_vec(&KeeperReply::Volumes { records }).unwrap();
        assert!(page.len() <= FRAME_LIMIT, "{} bytes", page.len());
    }
}
