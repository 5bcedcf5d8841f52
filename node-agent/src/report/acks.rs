//! What each pod shows, and which of that Safe knows. Pure: `now` is always passed in.

use std::collections::{BTreeMap, HashMap};

use std::time::Duration;

use tokio::time::Instant;
use vsecm_node_agent_api::volume::{PodUid, VolumeId};
use vsecm_safe_api::position::Shown;

use crate::backoff::Backoff;

/// Between the moment a pod shows something and its acknowledgement: of the versions that come
/// meanwhile only the last is acknowledged, and the other pods' swaps come first.
const LULL: Duration = Duration::from_millis(100);
/// Between two acknowledgements of one pod: each is a handshake.
const PACE: Duration = Duration::from_secs(1);
/// The first pause after one that failed …
const RETRY: Duration = Duration::from_millis(250);
/// … and the longest.
const LONGEST_RETRY: Duration = Duration::from_mins(1);

/// What a volume shows.
#[derive(Debug)]
struct Entry<W> {
    pod: PodUid,
    watch: W,
    shown: Shown,
}

#[derive(Debug)]
struct Pod {
    /// What Safe knows of.
    done: Option<Shown>,
    is_under_way: bool,
    not_before: Instant,
    retry: Backoff,
}

/// An acknowledgement that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due<W> {
    pub(super) pod: PodUid,
    /// Some volume of the pod, under which its watch knows its identity.
    pub(super) volume: VolumeId,
    pub(super) watch: W,
    pub(super) shown: Shown,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Taken,
    Failed,
}

/// All volumes and pods.
#[derive(Debug)]
pub(super) struct Acks<W> {
    volumes: BTreeMap<VolumeId, Entry<W>>,
    pods: HashMap<PodUid, Pod>,
}

impl<W> Default for Acks<W> {
    fn default() -> Self {
        Self { volumes: BTreeMap::new(), pods: HashMap::new() }
    }
}

impl<W: Clone> Acks<W> {
    /// Readers of the volume see this.
    pub(super) fn shows(
        &mut self,
        volume: &VolumeId,
        pod: &PodUid,
        watch: W,
        shown: Shown,
        now: Instant,
    ) {
        let state = self.pods.entry(pod.clone()).or_insert_with(|| Pod {
            done: None,
            is_under_way: false,
            not_before: now,
            retry: Backoff::new(RETRY, LONGEST_RETRY),
        });
        let was_due =
            self.volumes.get(volume).is_some_and(|e| state.done.as_ref() != Some(&e.shown));
        state.not_before = if was_due {
            // a newer version does not put it off, and does not wait for a long pause's end
            state.not_before.min(now + PACE)
        } else {
            state.not_before.max(now + LULL)
        };
        let entry = Entry { pod: pod.clone(), watch, shown };
        self.volumes.insert(volume.clone(), entry);
    }

    /// The volume shows nothing more of a secret, or is gone.
    pub(super) fn gone(&mut self, volume: &VolumeId) {
        let Some(entry) = self.volumes.remove(volume) else { return };
        if !self.volumes.values().any(|other| other.pod == entry.pod) {
            self.pods.remove(&entry.pod);
        }
    }

    /// Acknowledgements that wait for nothing but time, with the moment from which each may be sent.
    fn open(&self, is_possible: impl Fn(&VolumeId, &W) -> bool) -> Vec<(Instant, Due<W>)> {
        let mut by_pod: HashMap<&PodUid, Option<(&VolumeId, &Entry<W>)>> = HashMap::new();
        for (volume, entry) in &self.volumes {
            by_pod
                .entry(&entry.pod)
                // while a pod's volumes differ, it has not got the newer one
                .and_modify(|first| *first = first.filter(|(_, first)| first.shown == entry.shown))
                .or_insert(Some((volume, entry)));
        }
        let due = |(pod, agreed): (&PodUid, Option<(&VolumeId, &Entry<W>)>)| {
            let (volume, entry) = agreed?;
            let state = self.pods.get(pod)?;
            let is_open = !state.is_under_way
                && state.done.as_ref() != Some(&entry.shown)
                && is_possible(volume, &entry.watch);
            let due = || Due {
                pod: pod.clone(),
                volume: volume.clone(),
                watch: entry.watch.clone(),
                shown: entry.shown.clone(),
            };
            is_open.then(|| (state.not_before, due()))
        };
        by_pod.into_iter().filter_map(due).collect()
    }

    /// Takes at most `limit` that are to be sent now, and says when the next one is.
    pub(super) fn take(
        &mut self,
        limit: usize,
        is_possible: impl Fn(&VolumeId, &W) -> bool,
        now: Instant,
    ) -> (Vec<Due<W>>, Option<Instant>) {
        let mut open = self.open(is_possible);
        open.sort_by_key(|(at, _)| *at);
        let ripe = open.iter().take(limit).take_while(|(at, _)| *at <= now).count();
        let later = open.split_off(ripe);
        let due: Vec<_> = open.into_iter().map(|(_, due)| due).collect();
        for due in &due {
            if let Some(pod) = self.pods.get_mut(&due.pod) {
                pod.is_under_way = true;
            }
        }
        (due, later.first().map(|(at, _)| *at))
    }

    /// An acknowledgement has come to its end.
    pub(super) fn ended(&mut self, due: Due<W>, outcome: Outcome, now: Instant) {
        let Some(pod) = self.pods.get_mut(&due.pod) else { return };
        pod.is_under_way = false;
        pod.not_before = now
            + match outcome {
                Outcome::Taken => PACE,
                Outcome::Failed => pod.retry.pause(),
            };
        if outcome == Outcome::Taken {
            pod.retry.reset();
            pod.done = Some(due.shown);
        }
    }

    /// Safe knows nothing of this pod.
    pub(super) fn unknown(&mut self, pod: &PodUid) {
        if let Some(pod) = self.pods.get_mut(pod) {
            pod.done = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use vsecm_safe_api::position::{Lineage, Revision};

    use super::*;

    fn shown(revision: u64) -> Shown {
        let lineage = Lineage::from_random([7; 16]);
        Shown { lineage, revision: Revision(revision), digest: None }
    }

    /// Acknowledgements with a clock.
    struct Fixture(Acks<&'static str>, Instant);

    impl Fixture {
        fn new() -> Self {
            Self(Acks::default(), Instant::now())
        }

        fn shows(&mut self, volume: &str, pod: &str, revision: u64) {
            let (volume, pod) = (volume.parse().unwrap(), pod.parse().unwrap());
            self.0.shows(&volume, &pod, "watch", shown(revision), self.1);
        }

        fn pass(&mut self, time: Duration) -> &mut Self {
            self.1 += time;
            self
        }

        fn take(&mut self) -> Vec<Due<&'static str>> {
            self.0.take(10, |_, _| true, self.1).0
        }

        fn taken(&mut self) -> Vec<u64> {
            let due = self.take();
            let revisions = due.iter().map(|due| due.shown.revision.0).collect();
            for due in due {
                self.0.ended(due, Outcome::Taken, self.1);
            }
            revisions
        }
    }

    #[tokio::test]
    async fn of_versions_in_quick_succession_the_last_is_acknowledged_once() {
        let mut acks = Fixture::new();
        acks.shows("v", "p", 1);
        assert_eq!(acks.taken(), [0; 0]);
        acks.shows("v", "p", 2);
        assert_eq!(acks.pass(LULL).taken(), [2]);
        assert_eq!(acks.pass(PACE).taken(), [0; 0]);
        for revision in 3..100 {
            acks.shows("v", "p", revision);
        }
        assert_eq!(acks.pass(LULL).taken(), [99]);
        acks.shows("v", "p", 100);
        assert_eq!(acks.pass(LULL).taken(), [0; 0], "each is a handshake");
        assert_eq!(acks.pass(PACE).taken(), [100]);
    }

    #[tokio::test]
    async fn a_storm_of_versions_does_not_put_the_acknowledgement_off_for_ever() {
        let mut acks = Fixture::new();
        let mut sent = 0;
        for revision in 0..1000 {
            acks.shows("v", "p", revision);
            sent += acks.pass(LULL / 5).taken().len();
        }
        // 20 s of it
        assert!((15..=20).contains(&sent), "{sent}");
    }

    #[tokio::test]
    async fn a_pod_has_what_all_of_its_volumes_show() {
        let mut acks = Fixture::new();
        acks.shows("v1", "p", 1);
        acks.shows("v2", "p", 1);
        assert_eq!(acks.pass(LULL).taken(), [1], "once for both");
        acks.shows("v1", "p", 2);
        assert_eq!(acks.pass(PACE).taken(), [0; 0]);
        acks.shows("v2", "p", 2);
        assert_eq!(acks.pass(LULL).taken(), [2]);
        acks.shows("v1", "p", 3);
        acks.0.gone(&"v2".parse().unwrap());
        assert_eq!(acks.pass(PACE).taken(), [3]);
        acks.0.gone(&"v1".parse().unwrap());
        assert!(acks.0.pods.is_empty(), "nothing is kept of a pod that is gone");
    }

    #[tokio::test]
    async fn one_that_failed_is_repeated_until_it_is_taken_or_superseded() {
        let mut acks = Fixture::new();
        acks.shows("v", "p", 1);
        for _ in 0..3 {
            let due = acks.pass(LONGEST_RETRY).take().remove(0);
            assert_eq!(acks.take(), [], "one at a time");
            acks.0.ended(due, Outcome::Failed, acks.1);
            assert_eq!(acks.take(), [], "after a pause");
        }
        acks.shows("v", "p", 2);
        assert_eq!(
            acks.pass(PACE).taken(),
            [2],
            "a newer one does not wait for a long pause's end"
        );
    }

    #[tokio::test]
    async fn what_safe_forgot_is_acknowledged_again() {
        let mut acks = Fixture::new();
        acks.shows("v", "p", 1);
        assert_eq!(acks.pass(LULL).taken(), [1]);
        acks.0.unknown(&"p".parse().unwrap());
        acks.0.unknown(&"another".parse().unwrap());
        assert_eq!(acks.pass(PACE).taken(), [1]);
    }

    #[tokio::test]
    async fn without_watch_or_identity_nothing_is_due() {
        let mut acks = Fixture::new();
        acks.shows("v", "p", 1);
        acks.pass(PACE);
        assert_eq!(acks.0.take(10, |_, _| false, acks.1), (vec![], None));
        assert_eq!(acks.taken(), [1]);
    }

    #[tokio::test]
    async fn no_more_are_taken_than_there_is_room_for_and_the_next_moment_is_known() {
        let mut acks = Fixture::new();
        for number in 0..5 {
            acks.shows(&format!("v{number}"), &format!("p{number}"), 1);
        }
        let ripe = acks.1 + LULL;
        assert_eq!(acks.0.take(2, |_, _| true, acks.1), (vec![], Some(ripe)));
        acks.pass(LULL);
        let (due, next) = acks.0.take(2, |_, _| true, acks.1);
        assert_eq!((due.len(), next), (2, Some(ripe)));
        assert_eq!(acks.take().len(), 3);
    }
}
