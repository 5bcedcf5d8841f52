//! The end of versions that were replaced, and what becomes of the mounts that show them.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{debug, info};
use vsecm_node_agent_api::{frame::Bind, volume::VersionDir};
use vsecm_safe_api::client::chain;

use super::{Errand, Owner};
use crate::{
    duty::DutyError,
    volumes::shown::{Estate, GRACE},
};

/// The kubelet makes a subPath mount of what it found a moment before: it may be of a version that
/// was replaced meanwhile. So mounts are looked for this long.
const LATE_BINDS: Duration = Duration::from_mins(1);

/// Pause between two looks where folders come faster than one by one.
const PAUSE: Duration = Duration::from_millis(500);

/// csi could not tell what mounts show; it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

impl Owner {
    /// A version was replaced: in a while nobody needs its folder.
    pub(super) fn replaced(&mut self) {
        let now = Instant::now();
        self.bind_until = now + LATE_BINDS;
        self.retire_due.get_or_insert(now + GRACE);
    }

    /// What was deleted, has expired or was withdrawn cannot be read from now on, whatever csi does.
    pub(super) async fn withdraw_if_due(&self) {
        if let (Some(shown), Some(source)) = (&self.shown, self.desired()) {
            shown.withdraw(&source).await;
        }
    }

    /// Has csi remove what nobody needs.
    pub(super) fn retire_if_due(&mut self) {
        let is_due = self.retire_due.is_some_and(|due| due <= Instant::now());
        let (Some(shown), true, None) = (&self.shown, is_due, &self.errand) else {
            return;
        };
        self.retire_due = None;
        let dirs = shown.retire();
        let (duty, volume) = (Arc::clone(&self.means.duty), self.record.volume.clone());
        let ordered = dirs.clone();
        let ordered = tokio::spawn(async move { duty.retire(volume, ordered).await });
        self.errand = Some(Errand::Retire(dirs, ordered));
    }

    pub(super) async fn retired(
        &mut self,
        dirs: Vec<VersionDir>,
        outcome: Result<Vec<Bind>, DutyError>,
    ) {
        let Some(shown) = &self.shown else { return };
        // also those that csi could not remove: an old version does not stay for want of an event
        shown.retired(&dirs).await;
        if shown.is_retiring() {
            self.retire_due = Some(Instant::now() + PAUSE);
        }
        match outcome {
            Ok(binds) => self.learn(&binds).await,
            Err(error) => {
                debug!(volume = %self.record.volume, error = chain(&error), "csi is asked for mounts again");
                self.retire_due = Some(Instant::now() + ASK_AGAIN);
            }
        }
    }

    /// These mounts show versions of this volume.
    async fn learn(&mut self, binds: &[Bind]) {
        let Some(shown) = &self.shown else { return };
        let kept = shown.keep(binds);
        let (undecided, followers) = (shown.undecided(), shown.following(binds));
        let is_news = followers.is_some() || kept != self.bound.kept;
        if let Some(followers) = &followers {
            info!(volume = %self.record.volume, count = followers.len(), "subPath mounts follow");
            self.bound.followers.clone_from(followers);
        }
        if kept != self.bound.kept {
            info!(volume = %self.record.volume, versions = ?kept, "subPath mounts keep their versions");
            self.bound.kept = kept;
        }
        if is_news {
            // before a reader sees it: a successor must not go back behind it
            self.leave_word().await;
        }
        if let Some(member) = &self.member {
            member.watch.holds(&self.record.volume, undecided).await;
        }
        if let (Some(shown), Some(followers)) = (&self.shown, followers) {
            shown.follow(followers).await;
        }
    }

    /// What a predecessor kept for mounts stays until csi says which there are.
    pub(super) async fn keep_inherited(&self, estate: &Estate) {
        let kept = estate.bound.iter().map(|snapshot| snapshot.sequence()).collect();
        if let Some(member) = &self.member {
            member.watch.holds(&self.record.volume, kept).await;
        }
    }

    /// Looks after what late path walks and late mounts leave.
    pub(super) async fn sweep(&mut self) {
        let Some(shown) = &self.shown else { return };
        shown.sweep().await;
        if self.bind_until > Instant::now() {
            self.retire_due.get_or_insert_with(Instant::now);
        }
    }
}
