//! The volumes of this node in few words, a page at a time.

use std::{
    sync::PoisonError,
    time::{SystemTime, UNIX_EPOCH},
};

use vsecm_node_agent_api::{
    frame::{AgentReply, PAGE},
    listing::{Listed, condition},
    volume::{VolumeId, VolumeRecord},
};

use super::{
    Volumes,
    owner::{Gate, Status},
};
use crate::wait::Wait;

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What a volume waits for, or suffers from.
fn reasons(status: &Status) -> (Vec<String>, Option<String>) {
    let label = |wait: Wait| vec![wait.label().to_owned()];
    match (&status.gate, status.condition()) {
        (Gate::Waiting(reason), _) => (label(reason.wait), Some(reason.sentence.clone())),
        (Gate::Withdrawn(sentence), _) => (label(Wait::Withdrawn), Some(sentence.clone())),
        (Gate::Ready, sentence) => {
            let kinds = status.conditions.iter().map(|reason| reason.wait.label().to_owned());
            (kinds.collect(), sentence)
        }
    }
}

fn listed(record: &VolumeRecord, status: &Status) -> Listed {
    let (reasons, sentence) = reasons(status);
    Listed {
        volume: record.volume.clone(),
        namespace: record.pod.namespace.clone(),
        pod: record.pod.name.clone(),
        pod_uid: record.pod.uid.clone(),
        stage: status.progress.stage,
        since: seconds(status.progress.since),
        revision: status.progress.revision,
        reasons,
        condition: sentence.map(condition),
    }
}

impl Volumes {
    /// The volumes after `after` in the order of their ids, a page of them.
    pub fn list(&self, after: Option<&VolumeId>) -> AgentReply {
        let volumes = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut page: Vec<_> = volumes
            .iter()
            .filter(|(id, volume)| {
                after.is_none_or(|after| *id > after) && !volume.commands.is_closed()
            })
            .map(|(_id, volume)| std::sync::Arc::clone(volume))
            .collect();
        drop(volumes);
        page.sort_by(|a, b| a.record.volume.cmp(&b.record.volume));
        page.truncate(PAGE);
        let list = page.iter().map(|volume| listed(&volume.record, &volume.status.borrow()));
        AgentReply::Volumes { volumes: list.collect() }
    }
}
