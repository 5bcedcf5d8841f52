//! The life of a watch: dial with some member's identity, follow, dial again.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::{Code, Status, Streaming};
use tracing::{error, info, warn};
use vsecm_safe_api::{
    client::{ClientError, chain, channel},
    locked::is_locked,
    metadata::WATCH,
    proto::{WatchRequest, WatchResponse, secrets_client::SecretsClient},
    state::{Reason, State},
    wire::WireError,
};

use super::{
    Feed, Trouble, TroubleKind, Watch, Word, locked,
    verdict::{Verdict, judge},
};
use crate::{
    backoff::{Backoff, jitter},
    identity::Identity,
    snapshot::{Snapshot, SnapshotError},
    tls::TlsError,
    wait::moment,
};

/// Connection, handshake and the answer to a Watch together.
const OPEN_WAIT: Duration = Duration::from_secs(15);

/// At start this process's own identity comes within moments.
const OWN_IDENTITY_WAIT: Duration = Duration::from_secs(2);

/// After a renewal the old certificate is good for as long again: agents spread their dialling.
const RENEWAL_JITTER: Duration = Duration::from_secs(5);

/// The member whose identity held the watch is gone; others take over soon.
const TAKE_OVER_JITTER: Duration = Duration::from_secs(1);

/// For how long a pod that could start from what is held waits for Safe to say what holds now.
const CONFIRM_WAIT: Duration = Duration::from_secs(5);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("this node agent has no identity of its own from SPIRE yet")]
    NoOwnIdentity,
    #[error("the pod's identity cannot be used")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("Safe did not answer within {} seconds", .0.as_secs())]
    Silent(Duration),
    #[error("Safe refused or failed")]
    Status(#[source] Box<Status>),
    #[error("Safe ended the watch")]
    Ended,
    #[error("Safe's answer is not understood")]
    Answer(#[from] WireError),
    #[error("what Safe said cannot be kept")]
    Unkept(#[source] SnapshotError),
}

impl Broken {
    fn kind(&self) -> TroubleKind {
        match self {
            Self::NoOwnIdentity => TroubleKind::NoOwnIdentity,
            Self::Status(status) => kind_of(status),
            // Safe is there: nothing may start from what it has not confirmed
            Self::Tls(_) | Self::Answer(_) | Self::Unkept(_) => TroubleKind::Refused,
            Self::Client(_) | Self::Silent(_) | Self::Ended => TroubleKind::Unreachable,
        }
    }
}

fn kind_of(status: &Status) -> TroubleKind {
    match status.code() {
        _ if is_locked(status) => TroubleKind::Locked,
        // also what the transport fails with
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
            TroubleKind::Unreachable
        }
        _ => TroubleKind::Refused,
    }
}

impl Watch {
    pub(super) async fn run(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut has_asked = false;
        loop {
            let Some(identity) = self.best_identity() else {
                if std::mem::take(&mut has_asked) {
                    self.is_watched_no_more().await;
                }
                if let Some(ended) = self.last_expiry() {
                    let reason = format!("it ended at {}", moment(ended));
                    if self.suffers_from() != Some(TroubleKind::IdentityExpired) {
                        warn!(secret = %self.key.secret, reason, "SPIRE renews no identity that may read the secret");
                    }
                    self.trouble(TroubleKind::IdentityExpired, reason).await;
                }
                self.members_changed.notified().await;
                continue;
            };
            has_asked = true;
            let followed = self.follow(&identity, &mut backoff).await;
            *locked(&self.session) = None;
            if let Err(broken) = followed {
                let reason = chain(&broken);
                warn!(secret = %self.key.secret, reason, "the watch broke, and is opened again");
                self.trouble(broken.kind(), reason).await;
                sleep(backoff.pause()).await;
            }
        }
    }

    fn suffers_from(&self) -> Option<TroubleKind> {
        self.feed.borrow().trouble.as_ref().map(|trouble| trouble.kind)
    }

    async fn trouble(&self, kind: TroubleKind, reason: String) {
        let now = SystemTime::now();
        self.feed.send_modify(|feed| {
            let before = feed.trouble.take().filter(|before| before.kind == kind);
            let since = before.map_or(now, |before| before.since);
            feed.trouble = Some(Trouble { since, kind, reason });
            feed.word = feed.word.lost(now);
        });
        self.note().await;
    }

    /// None of the members has an identity: what Safe says from now on is not heard.
    async fn is_watched_no_more(&self) {
        let now = SystemTime::now();
        self.feed.send_modify(|feed| feed.word = feed.word.provisional(now));
        self.note().await;
    }

    /// Leaves a successor word, once, of when Safe confirmed last what it cannot be asked about.
    pub(super) async fn note(&self) {
        let since = self.feed.borrow().word.unconfirmed_since();
        if let Some(since) = since
            && !self.is_noted.swap(true, Ordering::Relaxed)
        {
            self.retained.note(&self.key, since).await;
        }
    }

    /// Safe stands by what is held: the sign of life speaks for it again.
    async fn is_current(&self) {
        if self.feed.borrow().word == Word::Current && self.is_noted.swap(false, Ordering::Relaxed)
        {
            self.retained.forget_note(&self.key).await;
        }
    }

    /// When the last of the members' identities ended.
    fn last_expiry(&self) -> Option<SystemTime> {
        locked(&self.members)
            .values()
            .filter_map(|member| member.identity.as_ref())
            .map(|identity| identity.expires)
            .max()
    }

    /// The identity of any member, the one that lasts longest.
    fn best_identity(&self) -> Option<Arc<Identity>> {
        let now = SystemTime::now();
        locked(&self.members)
            .values()
            .filter_map(|member| member.identity.as_ref())
            .filter(|identity| identity.expires > now)
            .max_by_key(|identity| identity.expires)
            .cloned()
    }

    fn is_held(&self, identity: &Arc<Identity>) -> bool {
        locked(&self.members)
            .values()
            .filter_map(|member| member.identity.as_ref())
            .any(|held| Arc::ptr_eq(held, identity))
    }

    /// Follows the secret until another identity is to be used (`Ok`) or the stream breaks.
    async fn follow(&self, identity: &Arc<Identity>, backoff: &mut Backoff) -> Result<(), Broken> {
        let mut stream = self.open(identity).await?;
        if self.feed.borrow().trouble.is_some() {
            info!(secret = %self.key.secret, "Safe can be asked again");
            self.feed.send_modify(|feed| {
                feed.trouble = None;
                // what differs from the position that it was asked with comes at once
                if matches!(feed.word, Word::Lost(_)) {
                    feed.word = Word::Current;
                }
            });
            self.is_current().await;
        }
        let mut dial_again: Option<Instant> = None;
        let mut answer_due = self.is_provisional().then(|| Instant::now() + CONFIRM_WAIT);
        loop {
            let due = dial_again.unwrap_or_else(Instant::now);
            tokio::select! {
                () = due_at(answer_due) => return Err(Broken::Silent(CONFIRM_WAIT)),
                message = stream.message() => match message {
                    Ok(Some(message)) => {
                        self.take(message.state.try_into()?).await?;
                        answer_due = None;
                        backoff.reset();
                    }
                    Ok(None) => return Err(Broken::Ended),
                    Err(status) => return Err(Broken::Status(Box::new(status))),
                },
                () = self.members_changed.notified() => {
                    dial_again = dial_again.or_else(|| self.when_to_dial_again(identity));
                }
                () = sleep_until(due), if dial_again.is_some() => return Ok(()),
            }
        }
    }

    fn when_to_dial_again(&self, identity: &Arc<Identity>) -> Option<Instant> {
        if self.is_held(identity) {
            return None;
        }
        let Some(next) = self.best_identity() else {
            // no member may see the secret any more: no further update reaches this node
            return Some(Instant::now());
        };
        let is_renewal = next.svid.spiffe_id() == identity.svid.spiffe_id();
        let spread = if is_renewal { RENEWAL_JITTER } else { TAKE_OVER_JITTER };
        let left = identity.expires.duration_since(SystemTime::now()).unwrap_or_default();
        Some(Instant::now() + jitter(spread.min(left / 2)))
    }

    async fn open(&self, identity: &Identity) -> Result<Streaming<WatchResponse>, Broken> {
        let mut tls = self.means.tls.clone();
        let own = timeout(OWN_IDENTITY_WAIT, tls.wait_for(Option::is_some)).await;
        drop(own);
        let base = tls.borrow().clone().ok_or(Broken::NoOwnIdentity)?;
        let channel = channel(&self.means.address, base.with_identity(identity)?)?;
        let (have, patience) = if self.is_provisional() {
            // Safe says nothing of what one has: its answer, byte for byte, is the confirmation
            (None, CONFIRM_WAIT)
        } else {
            (self.feed.borrow().snapshot.clone(), OPEN_WAIT)
        };
        let request =
            WatchRequest { have: have.as_deref().and_then(Snapshot::position).map(Into::into) };
        let mut client = SecretsClient::new(channel);
        let response = timeout(patience, client.watch(request))
            .await
            .map_err(|_elapsed| Broken::Silent(patience))?
            .map_err(|status| Broken::Status(Box::new(status)))?;
        // an older Safe does not say it, and is told nothing
        let session = response.metadata().get(WATCH).and_then(|id| id.to_str().ok());
        *locked(&self.session) = session.map(ToOwned::to_owned);
        self.means.due.notify_one();
        Ok(response.into_inner())
    }

    fn is_provisional(&self) -> bool {
        matches!(self.feed.borrow().word, Word::Provisional(_))
    }

    async fn take(&self, answer: State) -> Result<(), Broken> {
        // what ends by the clock must not come in between
        let _turn = self.publishing.lock().await;
        let held = self.feed.borrow().snapshot.clone();
        match judge(held.as_deref(), answer, SystemTime::now()) {
            Verdict::Same => self.hear(|feed| {
                feed.absent = None;
                feed.word = Word::Current;
            }),
            Verdict::Until(expires) => {
                let same = held.as_deref().and_then(|held| held.until(expires));
                self.keep(same, |feed| {
                    feed.absent = None;
                    feed.word = Word::Current;
                })
                .await?;
            }
            Verdict::StillAbsent(absent) => {
                info!(secret = %self.key.secret, reason = ?absent.reason, "there is no content");
                self.hear(|feed| {
                    feed.absent = Some(absent);
                    feed.word = Word::Current;
                });
            }
            Verdict::KeepAgainst(absent) => {
                match absent.reason {
                    Reason::NotRegistered => {
                        error!(secret = %self.key.secret, lineage = %absent.lineage, "Safe has never heard of a secret that it gave out before: did it lose its store? The content stays");
                    }
                    reason => {
                        warn!(secret = %self.key.secret, ?reason, "Safe gives no content now; what is held stays");
                    }
                }
                self.hear(|feed| feed.absent = Some(absent));
            }
            Verdict::Show { content, time, absent } => {
                let sequence = next_sequence(held.as_deref());
                let new = Snapshot::new(self.key.clone(), content, time, sequence);
                if let Ok(new) = &new {
                    info!(secret = %self.key.secret, version = new.folder(), "new content");
                }
                self.keep(Some(new), |feed| {
                    feed.absent = absent;
                    feed.word = Word::Current;
                })
                .await?;
            }
        }
        self.is_current().await;
        Ok(())
    }

    fn hear(&self, what: impl FnOnce(&mut Feed)) {
        self.feed.send_modify(what);
    }

    async fn keep(
        &self,
        new: Option<Result<Snapshot, SnapshotError>>,
        also: impl FnOnce(&mut Feed),
    ) -> Result<(), Broken> {
        if let Some(new) = new {
            // else Safe is asked again: for it, what it has said is done
            let new = new.map_err(Broken::Unkept)?;
            self.show(Arc::new(new), also).await;
        }
        Ok(())
    }
}

async fn due_at(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Nanoseconds since 1970, and always more than before.
pub(super) fn next_sequence(held: Option<&Snapshot>) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    held.map_or(now, |held| now.max(held.sequence().saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use vsecm_safe_api::locked::locked;

    use super::*;

    #[test]
    fn a_refusal_a_locked_and_an_unreachable_safe_are_told_apart() {
        let of = |status| Broken::Status(Box::new(status)).kind();
        let kind = |code, text: &str| of(Status::new(code, text));
        assert_eq!(kind(Code::PermissionDenied, "no workload"), TroubleKind::Refused);
        assert_eq!(kind(Code::Unauthenticated, "no SVID"), TroubleKind::Refused);
        assert_eq!(of(locked("no root key yet")), TroubleKind::Locked);
        assert_eq!(kind(Code::Unavailable, "the socket is locked"), TroubleKind::Unreachable);
        assert_eq!(Broken::Silent(OPEN_WAIT).kind(), TroubleKind::Unreachable);
        assert_eq!(Broken::NoOwnIdentity.kind(), TroubleKind::NoOwnIdentity);
    }
}
