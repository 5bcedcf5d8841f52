//! Acknowledgements on their way to Safe: each pod's under its own SVID.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tonic::{Code, Status};
use tracing::{debug, warn};
use vsecm_safe_api::{
    client::{ClientError, chain, channel},
    proto::{AcknowledgeRequest, secrets_client::SecretsClient},
};

use super::{
    Means, Reports, Shared,
    acks::{Due, Outcome},
};
use crate::tls::TlsError;

/// Connections for acknowledgements at once. Each is a handshake under an SVID of its own, and is
/// closed again: a hundred that stay open would cost Safe 35 KiB each for nothing.
const AT_ONCE: usize = 4;

/// Connection, handshake and answer together.
const ANSWER_WAIT: Duration = Duration::from_secs(15);

/// Why an acknowledgement did not arrive.
#[derive(Debug, thiserror::Error)]
enum AckError {
    #[error("the pod has no identity, its watch is not open, or this process has no identity")]
    NotNow,
    #[error("the pod's identity cannot be used")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("Safe did not answer within {} seconds", ANSWER_WAIT.as_secs())]
    Silent,
    #[error("Safe did not take it")]
    Status(#[source] Box<Status>),
}

impl AckError {
    /// Whether it is no matter of time.
    fn is_refusal(&self) -> bool {
        let Self::Status(status) = self else { return false };
        matches!(status.code(), Code::PermissionDenied | Code::InvalidArgument)
    }
}

impl Reports {
    /// Acknowledges whatever is due. Never ends.
    pub(super) async fn acknowledge(self: Arc<Self>, means: Means) {
        let mut under_way = JoinSet::new();
        loop {
            let room = AT_ONCE - under_way.len();
            let is_possible = |volume: &_, Shared(watch): &Shared| {
                watch.session().is_some() && watch.identity_of(volume).is_some()
            };
            let (due, next) = self.acks().take(room, is_possible, Instant::now());
            // beyond the room, only an end makes some
            let next = next.filter(|_| due.len() < room);
            for due in due {
                let (means, origin) = (means.clone(), self.origin());
                under_way.spawn(async move {
                    let sent = send(&means, origin, &due).await;
                    (due, sent)
                });
            }
            let ripe = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.due.notified() => {}
                () = ripe => {}
                Some(Ok((due, sent))) = under_way.join_next() => self.sent(due, &sent),
            }
        }
    }

    fn sent(&self, due: Due<Shared>, sent: &Result<(), AckError>) {
        let outcome = match sent {
            Ok(()) => Outcome::Taken,
            Err(error) => {
                let (reason, secret) = (chain(error), &due.watch.0.key().secret);
                if error.is_refusal() {
                    warn!(%secret, pod = %due.pod, reason, "Safe refuses an acknowledgement");
                } else {
                    debug!(%secret, pod = %due.pod, reason, "an acknowledgement is repeated later");
                }
                Outcome::Failed
            }
        };
        self.acks().ended(due, outcome, Instant::now());
    }
}

async fn send(means: &Means, origin: String, due: &Due<Shared>) -> Result<(), AckError> {
    let Shared(watch) = &due.watch;
    let session = watch.session().ok_or(AckError::NotNow)?;
    let identity = watch.identity_of(&due.volume).ok_or(AckError::NotNow)?;
    let base = means.tls.borrow().clone().ok_or(AckError::NotNow)?;
    let channel = channel(&means.address, base.with_identity(&identity)?)?;
    let request = AcknowledgeRequest {
        position: Some((&due.shown).into()),
        node: means.node.clone(),
        watch: session,
        origin,
    };
    let mut client = SecretsClient::new(channel);
    let answered = timeout(ANSWER_WAIT, client.acknowledge(request)).await;
    match answered.map_err(|_elapsed| AckError::Silent)? {
        Ok(_done) => Ok(()),
        Err(status) => Err(AckError::Status(Box::new(status))),
    }
}
