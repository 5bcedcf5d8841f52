//! Whether Safe can serve now, and the sentence that says why not.

use std::time::Duration;

use spiffe::{X509Source, x509_source::X509SourceError};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{sync::watch, time::sleep};
use vsecm_safe_api::{client::chain, probe::Readiness, role::SAFE_PATTERN, svid::end_of};

/// Longest time between two looks at the own SVID: an expiry sends no notice.
const LOOK: Duration = Duration::from_secs(5);

/// What the readiness probe answers. Each cause is logged once, not at each retry.
#[derive(Clone, Debug)]
pub struct State(watch::Sender<Readiness>);

impl State {
    /// Not ready, since Safe starts.
    pub fn starting() -> Self {
        Self(watch::Sender::new(Err("Safe is starting".to_owned())))
    }

    /// For the probe.
    pub fn subscribe(&self) -> watch::Receiver<Readiness> {
        self.0.subscribe()
    }

    /// Safe serves.
    pub fn ready(&self) {
        if self.change(Ok(())) {
            tracing::info!("Safe is ready");
        }
    }

    /// Safe does something that takes its time.
    pub fn busy(&self, what: &str) {
        if self.change(Err(what.to_owned())) {
            tracing::info!("{what}");
        }
    }

    /// Safe cannot serve until someone else does something.
    pub fn not_ready(&self, why: &str) {
        if self.change(Err(why.to_owned())) {
            tracing::error!(why, "Safe is not ready");
        }
    }

    fn change(&self, to: Readiness) -> bool {
        self.0.send_if_modified(|state| {
            let is_new = *state != to;
            *state = to;
            is_new
        })
    }
}

/// Follows the own SVID for ever: without a valid one, no client finishes its handshake.
pub async fn follow_identity(source: X509Source, state: State) {
    let mut updates = source.updated();
    let mut last_end = None;
    loop {
        match source.svid() {
            Ok(svid) => {
                last_end = svid.cert_chain().first().and_then(|leaf| end_of(leaf.as_bytes()));
                state.ready();
            }
            Err(error) => {
                let now = OffsetDateTime::now_utc();
                state.not_ready(&without_svid(&error, last_end, now));
            }
        }
        tokio::select! {
            Ok(_sequence) = updates.changed() => {}
            () = sleep(LOOK) => {}
        }
    }
}

fn without_svid(
    error: &X509SourceError,
    last_end: Option<OffsetDateTime>,
    now: OffsetDateTime,
) -> String {
    match (error, last_end) {
        (X509SourceError::NoSuitableSvid, Some(end)) if end <= now => format!(
            "Safe's own SVID expired at {} and SPIRE has not renewed it: is SPIRE's agent \
             running, and does it reach its server?",
            end.format(&Rfc3339).unwrap_or_default()
        ),
        (X509SourceError::NoSuitableSvid, _) => {
            format!("SPIRE gives this process no SVID any more that {SAFE_PATTERN} takes for Safe")
        }
        _other => format!("Safe has no SVID of its own any more: {}", chain(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_tells_ready_from_the_reason_why_not() {
        let state = State::starting();
        let seen = state.subscribe();
        assert!(seen.borrow().is_err());
        state.ready();
        assert_eq!(*seen.borrow(), Ok(()));
        state.not_ready("no SVID");
        assert_eq!(*seen.borrow(), Err("no SVID".to_owned()));
        assert!(!state.change(Err("no SVID".to_owned())), "the same cause is not said again");
    }

    #[test]
    fn an_expiry_is_said_with_its_time_and_told_from_another_identity() {
        let end = OffsetDateTime::UNIX_EPOCH;
        let said = |error: &X509SourceError, now| without_svid(error, Some(end), now);
        let expired = said(&X509SourceError::NoSuitableSvid, end);
        assert!(expired.contains("expired at 1970-01-01T00:00:00Z"), "{expired}");
        let before = end - time::Duration::SECOND;
        let other = said(&X509SourceError::NoSuitableSvid, before);
        assert!(other.contains(SAFE_PATTERN), "{other}");
        assert!(!said(&X509SourceError::Closed, end).contains("expired"));
    }
}
