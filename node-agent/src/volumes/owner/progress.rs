//! How far a volume is, and since when. Pure.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use vsecm_node_agent_api::{frame::Serving, listing::Stage};

use super::Gate;

/// How far a volume is.
#[derive(Clone, Debug)]
pub(in crate::volumes) struct Progress {
    /// Its stage.
    pub(in crate::volumes) stage: Stage,
    /// Since when it is there.
    pub(in crate::volumes) since: SystemTime,
    /// When this process was asked for it first.
    pub(in crate::volumes) asked: Instant,
    /// What readers see.
    pub(in crate::volumes) revision: Option<u64>,
    /// Since when something newer is known that readers are to see.
    pub(in crate::volumes) behind: Option<Instant>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            stage: Stage::Waiting,
            since: SystemTime::now(),
            asked: Instant::now(),
            revision: None,
            behind: None,
        }
    }
}

/// What is so now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) stage: Stage,
    pub(super) revision: Option<u64>,
    /// Whether readers are to see something else than they do.
    pub(super) is_behind: bool,
    pub(super) at: Instant,
}

/// The stage of a volume.
pub(super) fn stage(serving: Serving, gate: &Gate) -> Stage {
    match (serving, gate) {
        (Serving::Yes, _) => Stage::Serving,
        (Serving::No, Gate::Ready) => Stage::Ready,
        (Serving::No, Gate::Waiting(_)) => Stage::Waiting,
        (Serving::No, Gate::Withdrawn(_)) => Stage::Withdrawn,
    }
}

impl Progress {
    /// What is so after that, and how long readers saw something old, if they did until now.
    pub(super) fn after(&self, now: Now) -> (Self, Option<Duration>) {
        let Now { stage, revision, is_behind, at } = now;
        let since = if stage == self.stage { self.since } else { SystemTime::now() };
        let behind = is_behind.then(|| self.behind.unwrap_or(at));
        // what ended otherwise than by a swap was none
        let is_swapped = behind.is_none() && stage == Stage::Serving && self.stage == stage;
        let took =
            self.behind.filter(|_| is_swapped).map(|since| at.saturating_duration_since(since));
        (Self { stage, since, asked: self.asked, revision, behind }, took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(stage: Stage, is_behind: bool) -> Now {
        Now { stage, revision: Some(1), is_behind, at: Instant::now() }
    }

    #[test]
    fn a_stage_has_the_time_of_its_begin() {
        let first = Progress { since: SystemTime::UNIX_EPOCH, ..Progress::default() };
        let (same, _) = first.after(now(Stage::Waiting, false));
        assert_eq!(same.since, SystemTime::UNIX_EPOCH);
        let (other, _) = same.after(now(Stage::Serving, false));
        assert_ne!(other.since, SystemTime::UNIX_EPOCH);
    }

    #[test]
    fn a_swap_takes_from_the_news_to_the_moment_when_readers_see_it() {
        let (served, _) = Progress::default().after(now(Stage::Serving, false));
        let (behind, took) = served.after(now(Stage::Serving, true));
        assert!(took.is_none() && behind.behind.is_some());
        let later = behind.behind.unwrap() + Duration::from_millis(30);
        let (still, took) = behind.after(Now { at: later, ..now(Stage::Serving, true) });
        assert!(took.is_none());
        let (swapped, took) = still.after(Now { at: later, ..now(Stage::Serving, false) });
        assert_eq!((took, swapped.behind), (Some(Duration::from_millis(30)), None));
        let (_, took) = behind.after(now(Stage::Ready, false));
        assert_eq!(took, None, "the volume was unmounted");
    }
}
