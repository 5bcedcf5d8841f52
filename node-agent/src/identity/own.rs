//! This process's own identity: it brings the bundles that Safe is checked with, and makes this
//! process a delegate. It is not waited for: what was served before is served before SPIRE answers.

use std::time::Duration;

use anyhow::Context as _;
use spiffe::{TrustDomain, WorkloadApiClient, X509Source};
use tokio::{sync::watch, time::timeout};
use tracing::{error, info, warn};
use vsecm_safe_api::{
    client::{chain, tls_config},
    role::IdPattern,
};

use crate::{args::Settings, backoff::Backoff, tls::BaseConfig};

/// An agent that has this process's identity answers at once.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// Once the agent has answered, its stream begins with the same answer.
const SYNC_WAIT: Duration = Duration::from_secs(10);

/// Why this process has no identity.
#[derive(Debug, thiserror::Error)]
enum OwnError {
    #[error("SPIRE's agent at {socket} gave none")]
    Ask { socket: String, source: spiffe::WorkloadApiError },
    #[error("SPIRE's agent at {socket} did not answer within {} seconds", ANSWER_WAIT.as_secs())]
    Silent { socket: String },
    #[error("SPIRE's agent gave one, and then none")]
    Source(#[source] spiffe::x509_source::X509SourceError),
    #[error(
        "{id} is not of the trust domain {expected}: SPIFFE_TRUST_DOMAIN must be the one of SPIRE"
    )]
    TrustDomain { id: String, expected: TrustDomain },
}

#[derive(Clone)]
enum State {
    Awaited(String),
    Held(X509Source),
}

/// This process's own identity, now and later.
#[derive(Clone, Debug)]
pub struct OwnIdentity {
    state: watch::Receiver<State>,
    tls: watch::Receiver<Option<BaseConfig>>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Awaited(reason) => f.debug_tuple("Awaited").field(reason).finish(),
            Self::Held(_source) => f.debug_tuple("Held").finish_non_exhaustive(),
        }
    }
}

impl OwnIdentity {
    /// Begins to ask for it.
    ///
    /// # Errors
    /// A setting cannot be used.
    pub fn begin(settings: &Settings) -> anyhow::Result<Self> {
        let asker = Asker {
            socket: settings.spiffe_socket.clone(),
            trust_domain: TrustDomain::new(&settings.trust_domain)
                .context("SPIFFE_TRUST_DOMAIN")?,
            safe: settings.safe()?,
            state: watch::Sender::new(State::Awaited("SPIRE's agent is asked".to_owned())),
            tls: watch::Sender::new(None),
        };
        let own = Self { state: asker.state.subscribe(), tls: asker.tls.subscribe() };
        tokio::spawn(asker.run());
        Ok(own)
    }

    /// How Safe is trusted; none before the identity is there.
    pub fn tls(&self) -> watch::Receiver<Option<BaseConfig>> {
        self.tls.clone()
    }

    /// Why there is no identity that is good now, if so.
    pub fn lack(&self) -> Option<String> {
        match &*self.state.borrow() {
            State::Awaited(reason) => {
                Some(format!("this node agent has no identity of its own from SPIRE yet: {reason}"))
            }
            State::Held(source) => {
                let lack = source.svid().err()?;
                Some(format!(
                    "SPIRE has withdrawn this node agent's own identity, or has not renewed it: {}",
                    chain(&lack)
                ))
            }
        }
    }

    /// Resolves when it comes.
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

struct Asker {
    socket: String,
    trust_domain: TrustDomain,
    safe: IdPattern,
    state: watch::Sender<State>,
    tls: watch::Sender<Option<BaseConfig>>,
}

impl Asker {
    async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let source = loop {
            match self.ask().await {
                Ok(source) => break source,
                Err(lack) => self.lacks(chain(&lack)),
            }
            tokio::time::sleep(backoff.pause()).await;
        };
        match tls_config(source.clone(), self.trust_domain.clone(), self.safe.clone()) {
            Ok(config) => {
                info!("this process has its own identity");
                self.tls.send_replace(Some(BaseConfig::new(config)));
                self.state.send_replace(State::Held(source));
            }
            Err(failure) => {
                let reason = chain(&failure);
                error!(reason = &*reason, "Safe cannot be dialled");
                self.state.send_replace(State::Awaited(reason));
            }
        }
        // kept, so that waiting for it never ends in an error
        self.tls.closed().await;
    }

    fn lacks(&self, reason: String) {
        let is_known = matches!(&*self.state.borrow(), State::Awaited(known) if *known == reason);
        if !is_known {
            warn!(reason = &*reason, "no identity of our own yet");
            self.state.send_replace(State::Awaited(reason));
        }
    }

    /// The source alone would retry without a word for ever; so it is made once there is an answer.
    async fn ask(&self) -> Result<X509Source, OwnError> {
        let asked = async {
            let client = WorkloadApiClient::connect_to(&self.socket).await?;
            client.fetch_x509_svid().await
        };
        let svid = timeout(ANSWER_WAIT, asked)
            .await
            .map_err(|_elapsed| OwnError::Silent { socket: self.socket.clone() })?;
        let refused = |source| OwnError::Ask { socket: self.socket.clone(), source };
        let id = svid.map_err(refused)?.spiffe_id().clone();
        if id.trust_domain() != &self.trust_domain {
            let expected = self.trust_domain.clone();
            return Err(OwnError::TrustDomain { id: id.to_string(), expected });
        }
        let source = X509Source::builder().endpoint(&self.socket).initial_sync_timeout(SYNC_WAIT);
        source.build().await.map_err(OwnError::Source)
    }
}
