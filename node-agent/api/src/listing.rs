//! A node's volumes in few words, as `vsecm-csi volumes` prints them. No value of a secret ([I7]).

use serde::{Deserialize, Serialize};

use crate::{
    frame::cut,
    volume::{ObjectName, PodUid, VolumeId},
};

/// Bytes of a sentence in a list at most; longer ones are cut. JSON makes six of each at worst.
pub const CONDITION_LIMIT: usize = 512;

/// How far a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Its pod waits.
    Waiting,
    /// Its content is there, and it is to be mounted.
    Ready,
    /// Its pod has it.
    Serving,
    /// Its pod's identity was withdrawn before it was served.
    Withdrawn,
}

impl Stage {
    /// As tables and metrics say it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Ready => "ready",
            Self::Serving => "serving",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// One volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// The volume.
    pub volume: VolumeId,
    /// Its pod's namespace.
    pub namespace: ObjectName,
    /// Its pod.
    pub pod: ObjectName,
    /// Its pod's uid.
    pub pod_uid: PodUid,
    /// How far it is.
    pub stage: Stage,
    /// Since when, in seconds of Unix time.
    pub since: u64,
    /// The revision that the pod sees, if it sees a version of a secret.
    pub revision: Option<u64>,
    /// The kinds of what it waits for or suffers from, as metrics label them.
    pub reasons: Vec<String>,
    /// The same in words.
    pub condition: Option<String>,
}

/// Cuts a condition to [`CONDITION_LIMIT`] bytes at a character's border.
pub fn condition(text: String) -> String {
    cut(text, CONDITION_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{AgentReply, FRAME_LIMIT, PAGE};

    #[test]
    fn a_page_of_the_longest_lines_is_one_frame() {
        let label = "n".repeat(253).parse::<ObjectName>().unwrap();
        let listed = Listed {
            volume: "v".repeat(128).parse().unwrap(),
            namespace: label.clone(),
            pod: label,
            pod_uid: "1".repeat(64).parse().unwrap(),
            stage: Stage::Withdrawn,
            since: u64::MAX,
            revision: Some(u64::MAX),
            reasons: vec!["r".repeat(20); 22],
            condition: Some(condition("\u{1}".repeat(4096))),
        };
        let volumes = vec![listed; PAGE];
        let page = serde_json::to_vec(&AgentReply::Volumes { volumes }).unwrap();
        assert!(page.len() <= FRAME_LIMIT, "{} bytes", page.len());
    }

    #[test]
    fn a_condition_is_cut_between_characters() {
        let cut = condition("ü".repeat(400));
        assert!(cut.len() <= CONDITION_LIMIT && cut.chars().all(|c| c == 'ü'), "{cut}");
    }
}
