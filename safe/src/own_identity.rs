//! Safe's own SVID: waited for, with the reason why it does not come.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use spiffe::{
    SpiffeId, TrustDomain, WorkloadApiClient, WorkloadApiError, X509Source, X509Svid,
    x509_source::SvidPicker,
};
use tokio::time::{sleep, timeout};
use vsecm_safe_api::{
    client::chain,
    role::{IdPattern, SAFE_PATTERN, TRUST_DOMAIN},
};

use crate::readiness::State;

/// SPIRE's agent answers at once, with an SVID or a refusal.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// The first look comes early, as SPIRE and Safe often start together.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Who Safe must be.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The pattern of Safe's SPIFFE ID.
    pub safe: IdPattern,
}

impl Expected {
    fn is(&self, id: &SpiffeId) -> bool {
        *id.trust_domain() == self.trust_domain && self.safe.matches(&id.to_string())
    }

    /// Whether one of these is Safe; if not, what to do.
    fn judge(&self, ids: &[SpiffeId]) -> Result<(), String> {
        if ids.iter().any(|id| self.is(id)) {
            return Ok(());
        }
        let all: Vec<String> = ids.iter().map(SpiffeId::to_string).collect();
        let all = all.join(", ");
        let is_foreign = ids.iter().all(|id| *id.trust_domain() != self.trust_domain);
        Err(if is_foreign {
            format!(
                "SPIRE knows this process as {all}, but {TRUST_DOMAIN} says the trust domain \
                 {}: one of both is wrong",
                self.trust_domain
            )
        } else {
            format!(
                "SPIRE knows this process as {all}, which {SAFE_PATTERN} does not take for Safe: \
                 no client would talk to it"
            )
        })
    }
}

/// Waits until SPIRE gives Safe's SVID. The source then renews it by itself.
pub async fn wait(endpoint: &str, expected: Expected, state: &State) -> anyhow::Result<X509Source> {
    state.busy(&format!("waiting for an SVID from the Workload API at {endpoint}"));
    let mut pause = FIRST_PAUSE;
    loop {
        match look(endpoint).await {
            Err(Trouble::Final(error)) => {
                return Err(error).with_context(|| format!("cannot use the endpoint {endpoint}"));
            }
            Err(Trouble::Passing(why)) => state.not_ready(&why),
            Ok(ids) => match expected.judge(&ids) {
                Ok(()) => break,
                Err(why) => state.not_ready(&why),
            },
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    let source = X509Source::builder().endpoint(endpoint).picker(expected).build().await;
    let source = source.context("no SVID from the Workload API")?;
    tracing::info!(id = %source.svid()?.spiffe_id(), "identity");
    Ok(source)
}

impl SvidPicker for Expected {
    fn pick_svid(&self, svids: &[Arc<X509Svid>]) -> Option<usize> {
        svids.iter().position(|svid| self.is(svid.spiffe_id()))
    }
}

enum Trouble {
    /// The flag is wrong.
    Final(WorkloadApiError),
    Passing(String),
}

async fn look(endpoint: &str) -> Result<Vec<SpiffeId>, Trouble> {
    let asked = async {
        let client = WorkloadApiClient::connect_to(endpoint).await?;
        client.fetch_all_x509_svids().await
    };
    match timeout(LOOK_TIMEOUT, asked).await {
        Ok(Ok(svids)) => Ok(svids.iter().map(|svid| svid.spiffe_id().clone()).collect()),
        Ok(Err(error @ WorkloadApiError::Endpoint(_))) => Err(Trouble::Final(error)),
        Ok(Err(WorkloadApiError::NoIdentityIssued)) => Err(Trouble::Passing(
            "SPIRE has no registration entry for this pod (no identity issued): is Safe's \
             ClusterSPIFFEID there?"
                .to_owned(),
        )),
        Ok(Err(error)) => Err(Trouble::Passing(format!(
            "the Workload API at {endpoint} gives no SVID: {}; is SPIRE's agent running on this \
             node, and is the folder of its socket mounted?",
            chain(&error)
        ))),
        Err(_elapsed) => Err(Trouble::Passing(format!(
            "the Workload API at {endpoint} has not answered within {LOOK_TIMEOUT:?}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use vsecm_safe_api::role::DEFAULT_SAFE_PATTERN;

    use super::*;

    const SAFE: &str = "spiffe://vsecm.com/workload/vsecm-safe/ns/vsecm-system/sa/vsecm-safe/n/p";

    fn expected() -> Expected {
        Expected {
            trust_domain: "vsecm.com".parse().unwrap(),
            safe: IdPattern::parse(SAFE_PATTERN, DEFAULT_SAFE_PATTERN, "vsecm.com").unwrap(),
        }
    }

    #[test]
    fn one_of_several_identities_must_be_safes() {
        let judge = |ids: &[&str]| {
            let ids: Vec<SpiffeId> = ids.iter().map(|id| id.parse().unwrap()).collect();
            expected().judge(&ids)
        };
        assert_eq!(judge(&["spiffe://vsecm.com/other", SAFE]), Ok(()));
        let said = judge(&["spiffe://vsecm.com/other"]).unwrap_err();
        assert!(said.contains(SAFE_PATTERN) && said.contains("vsecm.com/other"), "{said}");
        let said = judge(&[&SAFE.replace("vsecm.com", "example.org")]).unwrap_err();
        assert!(said.contains(TRUST_DOMAIN) && said.contains("example.org"), "{said}");
    }

    #[tokio::test]
    async fn a_missing_socket_is_said_by_its_path() {
        let Err(Trouble::Passing(said)) = look("unix:///nowhere/agent.sock").await else {
            panic!("nothing listens there")
        };
        assert!(said.contains("/nowhere/agent.sock"), "{said}");
        assert!(matches!(look("http://nowhere").await, Err(Trouble::Final(_))));
    }
}
