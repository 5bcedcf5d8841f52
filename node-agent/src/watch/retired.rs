//! Versions that no volume shows any more, and that readers may still be in the midst of.
//!
//! A process remembers what it has handed out; its successor knows what the keeper has, and nothing
//! more. A reader that opened a file just before a rotation, and reads it just after the death,
//! would hear ESTALE.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::snapshot::{Content, Snapshot};

/// How long a reader takes from open to read: more than a walk is given, and a death in between.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// Versions at most, of up to 1 MiB each. Where they come faster than this, a reader that is so slow
/// meets ESTALE if the process dies just then.
const MOST: usize = 8;

/// Versions that went, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Retired {
    gone: VecDeque<(Instant, Arc<Snapshot>)>,
    /// Those that some reader may have seen, by their sequence: the others need no grace.
    seen: BTreeSet<u64>,
}

impl Retired {
    /// Adds what is not needed any more; what is to be forgotten now. After a removal nothing of
    /// the secret stays.
    pub(super) fn add(
        &mut self,
        unneeded: Vec<Arc<Snapshot>>,
        newest: Option<&Snapshot>,
        now: Instant,
    ) -> Vec<Arc<Snapshot>> {
        let seen = |snapshot: &Arc<Snapshot>| self.seen.contains(&snapshot.sequence());
        let (seen, mut forgotten): (Vec<_>, Vec<_>) = unneeded.into_iter().partition(seen);
        self.gone.extend(seen.into_iter().map(|snapshot| (now, snapshot)));
        let is_removed =
            newest.is_some_and(|newest| matches!(newest.content(), Content::Removed { .. }));
        while let Some((since, _)) = self.gone.front() {
            let is_over = now.saturating_duration_since(*since) >= GRACE;
            if !is_over && !is_removed && self.gone.len() <= MOST {
                break;
            }
            forgotten.extend(self.gone.pop_front().map(|(_, snapshot)| snapshot));
        }
        for snapshot in &forgotten {
            self.seen.remove(&snapshot.sequence());
        }
        forgotten
    }

    /// From now on some reader may have seen this version.
    pub(super) fn sees(&mut self, snapshot: &Snapshot) {
        self.seen.insert(snapshot.sequence());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.gone.is_empty()
    }

    /// Takes all, at the end of a watch.
    pub(super) fn take(&mut self) -> Vec<Arc<Snapshot>> {
        self.gone.drain(..).map(|(_, snapshot)| snapshot).collect()
    }
}
