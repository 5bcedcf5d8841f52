//! Which pods are there, and which wait, for Safe.

use std::{collections::BTreeMap, sync::PoisonError, time::SystemTime};

use vsecm_node_agent_api::{
    frame::Serving as IsServing,
    volume::{PodRef, PodUid},
};
use vsecm_safe_api::name::SecretKey;

use super::{
    Volumes,
    owner::{Gate, Status},
};
use crate::wait::Wait;

/// A pod with at least one volume, all of its volumes together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// The pod.
    pub pod: PodRef,
    /// Whose secret it gets, once it is known.
    pub secret: Option<SecretKey>,
    /// Whether a volume of it shows what Safe said.
    pub shows: bool,
    /// What it waits for.
    pub waiting: Option<Lack>,
}

/// What a pod lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// Since when.
    pub since: SystemTime,
    /// What kind it is.
    pub wait: Wait,
    /// In words.
    pub sentence: String,
}

impl Presence {
    fn of(pod: &PodRef, status: &Status) -> Self {
        let lack = |wait, sentence: &str| Lack {
            since: status.since,
            wait,
            sentence: sentence.to_owned(),
        };
        let waiting = match (&status.gate, &status.lacks) {
            (Gate::Waiting(reason), _) | (_, Some(reason)) => {
                Some(lack(reason.wait, &reason.sentence))
            }
            (Gate::Withdrawn(sentence), None) => Some(lack(Wait::Withdrawn, sentence)),
            (Gate::Ready, None) => None,
        };
        Self {
            pod: pod.clone(),
            secret: status.secret.clone(),
            shows: status.serving == IsServing::Yes && status.shows,
            waiting,
        }
    }

    /// With what another volume of the pod adds.
    fn join(&mut self, other: Self) {
        self.secret = self.secret.take().or(other.secret);
        self.shows |= other.shows;
        self.waiting = self.waiting.take().or(other.waiting);
    }
}

impl Volumes {
    /// All pods with volumes, in order.
    pub fn presence(&self) -> Vec<Presence> {
        let mut pods: BTreeMap<PodUid, Presence> = BTreeMap::new();
        let mut add = |presence: Presence| {
            let uid = presence.pod.uid.clone();
            match pods.get_mut(&uid) {
                Some(before) => before.join(presence),
                None => drop(pods.insert(uid, presence)),
            }
        };
        let held_back = self.held_back().clone();
        for held in held_back.values() {
            let lack =
                Lack { since: held.since, wait: Wait::CsiDriver, sentence: held.sentence.clone() };
            let pod = held.pod.clone();
            add(Presence { pod, secret: None, shows: false, waiting: Some(lack) });
        }
        let volumes = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, volume) in volumes.iter() {
            if !volume.commands.is_closed() && !held_back.contains_key(id) {
                add(Presence::of(&volume.record.pod, &volume.status.borrow()));
            }
        }
        drop(volumes);
        pods.into_values().collect()
    }
}
