//! How many volumes are in which state, for metrics.

use std::{
    collections::BTreeMap,
    sync::PoisonError,
    time::{Duration, SystemTime},
};

use vsecm_node_agent_api::{frame::Serving as IsServing, listing::Stage};

use super::{
    Volumes,
    owner::{Gate, Held, Status},
};
use crate::wait::Wait;

/// Volumes of this node, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Mounted.
    pub serving: usize,
    /// To be mounted now.
    pub ready: usize,
    /// Not mounted, by what they wait for.
    pub waiting: BTreeMap<Wait, usize>,
    /// Mounted without news, by each reason.
    pub stale: BTreeMap<Wait, usize>,
    /// Identities: none, issued, ended, withdrawn.
    pub identities: [usize; 4],
    /// How long the pod waits that waits longest.
    pub oldest_wait: Duration,
    /// Mounted, with something newer to be shown.
    pub behind: usize,
    /// Since when that is so, for the oldest.
    pub oldest_behind: Duration,
}

impl Census {
    fn count(&mut self, status: &Status, now: SystemTime) {
        let progress = &status.progress;
        if progress.stage == Stage::Waiting {
            self.oldest_wait = self.oldest_wait.max(progress.asked.elapsed());
        }
        if let Some(behind) = progress.behind {
            self.behind += 1;
            self.oldest_behind = self.oldest_behind.max(behind.elapsed());
        }
        if status.serving == IsServing::Yes {
            self.serving += 1;
            for reason in &status.conditions {
                *self.stale.entry(reason.wait).or_default() += 1;
            }
        } else {
            match &status.gate {
                Gate::Ready => self.ready += 1,
                Gate::Waiting(reason) => *self.waiting.entry(reason.wait).or_default() += 1,
                Gate::Withdrawn(_) => *self.waiting.entry(Wait::Withdrawn).or_default() += 1,
            }
        }
        let [none, issued, ended, withdrawn] = &mut self.identities;
        *match status.identity {
            Held::None => none,
            Held::Current(expires) if expires <= now => ended,
            Held::Current(_) => issued,
            Held::Withdrawn => withdrawn,
        } += 1;
    }
}

impl Volumes {
    /// Counts all volumes.
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        let now = SystemTime::now();
        let held_back = self.held_back().clone();
        if !held_back.is_empty() {
            census.waiting.insert(Wait::CsiDriver, held_back.len());
            let waits =
                held_back.values().map(|held| now.duration_since(held.since).unwrap_or_default());
            census.oldest_wait = waits.max().unwrap_or_default();
        }
        let volumes = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, volume) in volumes.iter() {
            // what it would wait for without that is not counted beside it
            if !volume.commands.is_closed() && !held_back.contains_key(id) {
                census.count(&volume.status.borrow(), now);
            }
        }
        drop(volumes);
        census
    }
}
