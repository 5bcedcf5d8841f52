//! One watch: first state at once, then each newer one, until the certificate ends.

use std::{sync::Arc, time::Duration};

use futures_util::stream;
use prost::bytes::Bytes;
use time::OffsetDateTime;
use tokio::{sync::watch, time::sleep};
use tonic::Status;
use vsecm_safe_api::{
    name::SecretKey,
    position::{Position, Shown},
};

use super::{
    About, Caller, Services,
    secrets::{Part, Parts, SLICE, data, trailers},
};
use crate::{deliveries::Open, feed::Published, policy::Action};

/// Longest sleep before the wall clock is read again: it may be set while we sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

pub(super) struct Watching {
    services: Arc<Services>,
    caller: Caller,
    /// What was sent may be acknowledged; none once it has ended.
    open: Option<Open>,
    key: SecretKey,
    /// What the caller has, from an earlier watch.
    have: Option<Position>,
    states: watch::Receiver<Arc<Published>>,
    /// The rest of the frame that is being sent.
    rest: Bytes,
    /// What that is.
    sending: Option<Shown>,
    is_over: bool,
}

impl Watching {
    pub(super) fn new(
        services: Arc<Services>,
        caller: Caller,
        open: Open,
        key: SecretKey,
        have: Option<Position>,
    ) -> Self {
        let mut states = services.feed.watch(&key);
        // what the caller has counts as sent, once it was found to be the present state
        let now = states.borrow().clone();
        if have.is_some() && have.as_ref() == now.position() {
            open.sent(now.shown());
        }
        // the first state is news
        states.mark_changed();
        Self {
            services,
            caller,
            open: Some(open),
            key,
            have,
            states,
            rest: Bytes::new(),
            sending: None,
            is_over: false,
        }
    }

    pub(super) fn parts(self) -> impl Parts {
        stream::unfold(self, |mut watching| async move {
            let part = watching.next().await?;
            Some((part, watching))
        })
    }

    async fn next(&mut self) -> Option<Part> {
        if self.is_over {
            return None;
        }
        Some(match self.slice().await {
            Ok(slice) => data(slice),
            Err(status) => {
                self.is_over = true;
                self.open = None;
                self.rest = Bytes::new();
                self.audit(None, status.message());
                trailers(&status)
            }
        })
    }

    /// The next bytes that the caller may have. Polled only when the connection can take them.
    async fn slice(&mut self) -> Result<Bytes, Status> {
        while self.rest.is_empty() {
            let state = self.news().await?;
            // each push is a decision of its own: role, namespace, end of the certificate
            let key = self.services.own_key(&self.caller, Action::Watch)?;
            if key != self.key {
                return Err(Status::permission_denied("the SPIFFE ID names another secret"));
            }
            let has_it = self.have.is_some() && self.have.as_ref() == state.position();
            self.have = None;
            if !has_it {
                self.audit(Some(&state), state.outcome());
                self.rest = state.frame();
                self.sending = Some(state.shown());
            }
        }
        self.caller.check_expiry()?;
        let slice = self.rest.split_to(self.rest.len().min(SLICE));
        if self.rest.is_empty()
            && let Some(shown) = self.sending.take()
        {
            self.sent(shown);
        }
        Ok(slice)
    }

    fn sent(&self, shown: Shown) {
        if let Some(open) = &self.open {
            open.sent(shown);
        }
    }

    /// The newest state, once there is one that was not sent.
    async fn news(&mut self) -> Result<Arc<Published>, Status> {
        loop {
            tokio::select! {
                biased;
                () = self.services.stop.cancelled() => {
                    return Err(Status::unavailable("Safe is shutting down"));
                }
                () = until(self.caller.peer.not_after) => self.caller.check_expiry()?,
                changed = self.states.changed() => {
                    changed.map_err(|_closed| Status::unavailable("Safe is shutting down"))?;
                    let state = Arc::clone(&self.states.borrow_and_update());
                    // the custodian is about to publish that its time is over
                    if state.expired(OffsetDateTime::now_utc()).is_none() {
                        return Ok(state);
                    }
                }
            }
        }
    }

    fn audit(&self, state: Option<&Published>, outcome: &str) {
        let about = About {
            secret: Some(&self.key),
            revision: state.map(Published::revision),
            context: if state.is_some() { "push" } else { "end" },
        };
        self.caller.audit(Action::Watch, &about, outcome);
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        if !self.is_over {
            self.audit(None, "closed by the caller");
        }
    }
}

/// Returns at a moment of the wall clock, or somewhat before it.
pub(super) async fn until(moment: OffsetDateTime) {
    let left = moment - OffsetDateTime::now_utc();
    let left = Duration::try_from(left).unwrap_or(Duration::ZERO);
    sleep(left.min(LONGEST_SLEEP)).await;
}
