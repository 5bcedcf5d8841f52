//! The life of a watch: dial with some member's identity, follow, dial again.

use std::{
    sync::Arc,
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
    Trouble, TroubleKind, Watch, locked,
    verdict::{Verdict, judge},
};
use crate::{
    backoff::{Backoff, jitter},
    identity::Identity,
    snapshot::Snapshot,
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

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("this node agent has no identity of its own from SPIRE yet")]
    NoOwnIdentity,
    #[error("the pod's identity cannot be used")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("Safe did not answer within {} seconds", OPEN_WAIT.as_secs())]
    Silent,
    #[error("Safe refused or failed")]
    Status(#[source] Box<Status>),
    #[error("Safe ended the watch")]
    Ended,
    #[error("Safe's answer is not understood")]
    Answer(#[from] WireError),
}

impl Broken {
    fn kind(&self) -> TroubleKind {
        match self {
            Self::NoOwnIdentity => TroubleKind::NoOwnIdentity,
            Self::Status(status) => kind_of(status),
            _ => TroubleKind::Unreachable,
        }
    }
}

fn kind_of(status: &Status) -> TroubleKind {
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => TroubleKind::Refused,
        _ if is_locked(status) => TroubleKind::Locked,
        _ => TroubleKind::Unreachable,
    }
}

impl Watch {
    pub(super) async fn run(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let Some(identity) = self.best_identity() else {
                if let Some(ended) = self.last_expiry() {
                    let reason = format!("it ended at {}", moment(ended));
                    if self.suffers_from() != Some(TroubleKind::IdentityExpired) {
                        warn!(secret = %self.key.secret, reason, "SPIRE renews no identity that may read the secret");
                    }
                    self.trouble(TroubleKind::IdentityExpired, reason);
                }
                self.members_changed.notified().await;
                continue;
            };
            let followed = self.follow(&identity, &mut backoff).await;
            *locked(&self.session) = None;
            if let Err(broken) = followed {
                let reason = chain(&broken);
                warn!(secret = %self.key.secret, reason, "the watch broke, and is opened again");
                self.trouble(broken.kind(), reason);
                sleep(backoff.pause()).await;
            }
        }
    }

    fn suffers_from(&self) -> Option<TroubleKind> {
        self.feed.borrow().trouble.as_ref().map(|trouble| trouble.kind)
    }

    fn trouble(&self, kind: TroubleKind, reason: String) {
        self.feed.send_modify(|feed| {
            let before = feed.trouble.take().filter(|before| before.kind == kind);
            let since = before.map_or_else(SystemTime::now, |before| before.since);
            feed.trouble = Some(Trouble { since, kind, reason });
        });
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
            self.feed.send_modify(|feed| feed.trouble = None);
        }
        let mut dial_again: Option<Instant> = None;
        loop {
            let due = dial_again.unwrap_or_else(Instant::now);
            tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(message)) => {
                        self.take(message.state.try_into()?).await;
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
        let have = self.feed.borrow().snapshot.clone();
        let request =
            WatchRequest { have: have.as_deref().and_then(Snapshot::position).map(Into::into) };
        let mut client = SecretsClient::new(channel);
        let response = timeout(OPEN_WAIT, client.watch(request))
            .await
            .map_err(|_elapsed| Broken::Silent)?
            .map_err(|status| Broken::Status(Box::new(status)))?;
        // an older Safe does not say it, and is told nothing
        let session = response.metadata().get(WATCH).and_then(|id| id.to_str().ok());
        *locked(&self.session) = session.map(ToOwned::to_owned);
        self.means.due.notify_one();
        Ok(response.into_inner())
    }

    async fn take(&self, answer: State) {
        let held = self.feed.borrow().snapshot.clone();
        match judge(held.as_deref(), answer) {
            Verdict::Same => self.feed.send_modify(|feed| feed.absent = None),
            Verdict::StillAbsent(absent) => {
                info!(secret = %self.key.secret, reason = ?absent.reason, "there is no content");
                self.feed.send_modify(|feed| feed.absent = Some(absent));
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
                self.feed.send_modify(|feed| feed.absent = Some(absent));
            }
            Verdict::Show { content, time, absent } => {
                let sequence = next_sequence(held.as_deref());
                match Snapshot::new(self.key.clone(), content, time, sequence) {
                    Ok(snapshot) => {
                        info!(secret = %self.key.secret, version = snapshot.folder(), "new content");
                        self.publish(snapshot).await;
                        self.feed.send_modify(|feed| feed.absent = absent);
                    }
                    Err(failure) => {
                        error!(secret = %self.key.secret, reason = chain(&failure), "new content cannot be kept; what is held stays");
                    }
                }
            }
        }
    }
}

/// Nanoseconds since 1970, and always more than before.
fn next_sequence(held: Option<&Snapshot>) -> u64 {
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
        assert_eq!(Broken::Silent.kind(), TroubleKind::Unreachable);
        assert_eq!(Broken::NoOwnIdentity.kind(), TroubleKind::NoOwnIdentity);
    }
}
