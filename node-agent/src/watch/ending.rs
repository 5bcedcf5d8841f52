//! The end that Safe gave a secret, enforced here: at its second, and also while Safe is away.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::sleep;
use tracing::{error, warn};
use vsecm_safe_api::client::chain;

use super::{Watch, retained::LONGEST_SLEEP, stream::next_sequence, verdict::over};
use crate::{
    snapshot::{Snapshot, SnapshotError},
    wait::moment,
};

/// Before a removal that could not be kept is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What takes the place of `held` at its end `end`.
pub(super) fn removal(held: &Snapshot, end: SystemTime) -> Option<Result<Snapshot, SnapshotError>> {
    let content = held.expired(end)?;
    Some(Snapshot::new(held.key().clone(), content, end, next_sequence(Some(held))))
}

impl Watch {
    /// Takes away what has come to its end, for as long as the watch lives.
    pub(super) async fn end_in_time(&self) {
        let mut feed = self.feed.subscribe();
        loop {
            let held = feed.borrow_and_update().snapshot.clone();
            let end = held.as_deref().and_then(Snapshot::expires);
            let left = end.map(|end| end.duration_since(SystemTime::now()).unwrap_or_default());
            match left {
                Some(Duration::ZERO) => self.end_if_due().await,
                Some(left) => tokio::select! {
                    _changed = feed.changed() => {}
                    () = sleep(left.min(LONGEST_SLEEP)) => {}
                },
                None => {
                    if feed.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Takes away what is held if its time is over.
    pub(super) async fn end_if_due(&self) {
        // Safe may have said something newer by now
        let turn = self.publishing.lock().await;
        let held = self.feed.borrow().snapshot.clone();
        let ended = held.as_deref().and_then(|held| Some((held, held.ended(SystemTime::now())?)));
        let Some((held, end)) = ended else { return };
        match removal(held, end) {
            Some(Ok(removal)) => {
                warn!(secret = %self.key.secret, end = moment(end), "the secret's time is over, as Safe said beforehand: its files go");
                let absent = held.position().map(|position| over(Some(end.into()), position));
                self.show(Arc::new(removal), |feed| feed.absent = absent).await;
            }
            Some(Err(failure)) => {
                error!(secret = %self.key.secret, reason = chain(&failure), "the end of the secret cannot be kept yet");
                drop(turn);
                sleep(AGAIN).await;
            }
            None => {}
        }
    }
}
