//! From one version to the next, and to the end of the session.

use std::{os::fd::OwnedFd, sync::Arc};

use tokio::time::Instant;
use tracing::{debug, error, info, warn};
use vsecm_safe_api::client::chain;

use super::{DETACH_WAIT, Errand, Next, Owner};
use crate::{
    duty::DutyError,
    session::{End, Start},
    snapshot::Snapshot,
    tree::Source,
    volumes::shown::{Estate, Shown, Swap},
    wait::moment,
    watch::Watch,
};

impl Owner {
    pub(super) async fn serve(&mut self, descriptor: OwnedFd, start: Start) -> Result<(), String> {
        match (&self.shown, start) {
            (Some(_), Start::Resumed) => return Ok(()),
            (Some(_), Start::Fresh) => {
                return Err("the volume is served already: detach it first".to_owned());
            }
            (None, _) => {}
        }
        let source = self.desired().ok_or("the volume has no content yet: attach it first")?;
        let estate = self.estate(&source, start);
        self.keep_inherited(&estate).await;
        let observers = self.observers.clone();
        let shown = Shown::start(&self.record, source, estate, descriptor, start, observers)
            .await
            .map_err(|error| chain(&error))?;
        info!(volume = %self.record.volume, pod = %self.record.pod.name, namespace = %self.record.pod.namespace, ?start, "serving");
        self.shown = Some(shown);
        self.detach_due = None;
        if start == Start::Resumed {
            // what mounts show is known by csi alone
            self.retire_due = Some(Instant::now());
        }
        if start == Start::Fresh {
            self.count_if_unconfirmed();
            let asked = self.status.borrow().progress.asked;
            self.means.times.publish.observe(asked.elapsed().as_secs_f64());
        }
        self.settled().await;
        Ok(())
    }

    /// Says of a pod that it begins with what Safe could not be asked about.
    fn count_if_unconfirmed(&mut self) {
        let feed = self.feed().filter(|feed| feed.snapshot.is_some());
        let Some((trouble, since)) =
            feed.and_then(|feed| Some((feed.trouble?, feed.word.unconfirmed_since()?)))
        else {
            return;
        };
        warn!(volume = %self.record.volume, pod = %self.record.pod.name, namespace = %self.record.pod.namespace, confirmed = moment(since), away_since = moment(trouble.since), reason = trouble.reason, "the pod starts from the snapshot that this node holds, as Safe cannot be asked");
        self.has_begun_unconfirmed = true;
        self.means.watches.retained().count_start();
    }

    /// What a predecessor left beside what is shown.
    fn estate(&self, source: &Source, start: Start) -> Estate {
        let followers = Arc::new(self.bound.followers.clone());
        let (Source::Said(newest), Start::Resumed) = (source, start) else {
            return Estate { followers, ..Estate::default() };
        };
        let mut versions = self.watch_of(newest).map(|w| w.versions()).unwrap_or_default();
        versions.retain(|version| version.sequence() < newest.sequence());
        let is_bound = |v: &Arc<Snapshot>| self.bound.kept.contains(&v.sequence());
        let (bound, older) = versions.into_iter().partition(is_bound);
        Estate { older, bound, followers }
    }

    /// The watch that has this version.
    fn watch_of(&self, snapshot: &Snapshot) -> Option<&Arc<Watch>> {
        let former = self.former.as_ref().map(|former| &former.member);
        let mut members = self.member.iter().chain(former);
        let member = members.find(|member| member.watch.key() == snapshot.key());
        member.map(|member| &member.watch)
    }

    /// Readers see what they are to see: older versions are not needed, and Safe hears of it.
    async fn settled(&mut self) {
        let (Some(member), Some(shown)) = (&self.member, &self.shown) else {
            return;
        };
        let tree = shown.tree();
        let Some(Source::Said(snapshot)) = tree.as_ref().map(|tree| tree.source()) else {
            self.means.reports.gone(&self.record.volume);
            return;
        };
        self.has_begun = true;
        if snapshot.key() != member.watch.key() {
            return;
        }
        // first: what it does not show any more is forgotten otherwise
        member.watch.holds(&self.record.volume, shown.undecided()).await;
        member.watch.shows(&self.record.volume, snapshot).await;
        self.means.reports.shows(&self.record, &member.watch, snapshot.shown());
    }

    pub(super) fn swap_if_needed(&mut self) {
        if self.errand.is_some() || self.swap_again > Instant::now() {
            return;
        }
        let due = match (self.desired(), &self.shown) {
            (Some(source), Some(shown)) => shown.prepare(&source).map(|swap| (source, swap)),
            _ => None,
        };
        let Some((source, swap)) = due else {
            // also where there is nothing to swap: else the next attempt would be due for ever
            self.swap_trouble = None;
            return;
        };
        if let Source::Said(snapshot) = &source
            && let Some(watch) = self.watch_of(snapshot)
        {
            watch.will_show(&self.record.volume, snapshot);
        }
        let (duty, volume) = (Arc::clone(&self.means.duty), self.record.volume.clone());
        let Swap { dir, replaced } = swap;
        let ordered = tokio::spawn(async move { duty.publish(volume, dir, replaced).await });
        self.errand = Some(Errand::Swap(source, ordered));
    }

    pub(super) async fn swapped(&mut self, source: Source, outcome: Result<(), DutyError>) {
        let Some(shown) = &mut self.shown else { return };
        let trouble = match outcome {
            Ok(()) if shown.settle(&source).await => None,
            Ok(()) => Some("csi reported a swap that did not happen".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        let Some(trouble) = trouble else {
            self.swap_trouble = None;
            self.backoff.reset();
            self.replaced();
            self.settled().await;
            return;
        };
        let pause = self.backoff.pause();
        warn!(volume = %self.record.volume, trouble, ?pause, "a version is not published yet");
        self.swap_trouble = Some(trouble);
        self.swap_again = Instant::now() + pause;
    }

    pub(super) async fn ended(&mut self, how: End) -> Next {
        self.shown = None;
        self.errand = None;
        self.retire_due = None;
        self.means.reports.gone(&self.record.volume);
        match how {
            End::Closed => {
                info!(volume = %self.record.volume, "the kernel closed the volume's connection");
                self.detach_due = Some(Instant::now() + DETACH_WAIT);
            }
            End::Broken(failure) => {
                error!(volume = %self.record.volume, %failure, "the session broke");
                self.end_process("a session broke").await;
            }
        }
        Next::Live
    }

    /// The kernel closed the connection and csi did not detach: either csi died in the midst of
    /// an unpublish, or the mount was taken away under us.
    pub(super) async fn not_detached(&mut self) -> Next {
        self.detach_due = None;
        match self.means.keeper.descriptor(&self.record.volume).await {
            Ok(Some(_descriptor)) => {}
            Ok(None) => {
                info!(volume = %self.record.volume, "the volume is gone");
                self.forget().await;
                return Next::End;
            }
            Err(failure) => {
                // a new process could not go on with the other volumes without the keeper
                warn!(volume = %self.record.volume, reason = chain(&failure), "whether the volume is gone is asked again");
                self.detach_due = Some(Instant::now() + DETACH_WAIT);
                return Next::Live;
            }
        }
        let reason = "a session ended while its volume is attached";
        error!(volume = %self.record.volume, reason);
        self.end_process(reason).await;
        Next::Live
    }

    async fn end_process(&self, reason: &str) {
        let reason = format!("volume {}: {reason}", self.record.volume);
        if self.means.fatal.send(reason).await.is_err() {
            debug!("the process ends already");
        }
    }
}
