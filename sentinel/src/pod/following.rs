//! Follows the own identity. `spiffe`'s own source would do it too, but tells nobody what it waits
//! for before the first one has come.

use std::{sync::Arc, time::Duration};

use spiffe::{WorkloadApiClient, WorkloadApiError, X509Context, X509Svid};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_stream::StreamExt as _;
use vsecm_safe_api::{client::chain, svid::end_of};

use super::readiness::{Lack, Standing};
use crate::{
    config::Config,
    identity::{OwnIdentity, is_missing},
};

/// Pause before SPIRE is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// A local socket accepts in microseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Follows for ever. An identity stays while SPIRE cannot be asked: its end is known. Only SPIRE's
/// word takes it away.
pub(super) async fn follow(config: Config, standing: watch::Sender<Standing>) {
    let own = OwnIdentity::new(config.sentinel.clone());
    loop {
        let lack = match listen(&config, &own, &standing).await {
            Err(Ended::Denied) => Some(Lack::Entry),
            Err(Ended::Failed(_)) if matches!(*standing.borrow(), Standing::Issued { .. }) => None,
            Err(Ended::Failed(cause)) => Some(unreachable(&config, cause)),
            // an agent that ends in good order
            Ok(()) => None,
        };
        if let Some(lack) = lack {
            set(&standing, Standing::Lacking(lack));
        }
        sleep(PAUSE).await;
    }
}

fn unreachable(config: &Config, cause: String) -> Lack {
    let workload_api = config.workload_api.clone();
    if is_missing(&workload_api) {
        Lack::Socket(workload_api)
    } else {
        Lack::WorkloadApi { workload_api, cause }
    }
}

/// How listening failed.
enum Ended {
    /// SPIRE says that there is no identity for us.
    Denied,
    Failed(String),
}

impl From<WorkloadApiError> for Ended {
    fn from(error: WorkloadApiError) -> Self {
        match error {
            WorkloadApiError::NoIdentityIssued => Self::Denied,
            other => Self::Failed(chain(&other)),
        }
    }
}

async fn listen(
    config: &Config,
    own: &OwnIdentity,
    standing: &watch::Sender<Standing>,
) -> Result<(), Ended> {
    let connected = timeout(CONNECT_TIMEOUT, WorkloadApiClient::connect_to(&config.workload_api));
    let client = connected
        .await
        .map_err(|_elapsed| Ended::Failed(format!("no connection within {CONNECT_TIMEOUT:?}")))??;
    let mut contexts = client.stream_x509_contexts().await?;
    while let Some(context) = contexts.next().await {
        set(standing, judge(&context?, config, own));
    }
    Ok(())
}

fn set(standing: &watch::Sender<Standing>, new: Standing) {
    standing.send_if_modified(|old| {
        let is_new = *old != new;
        *old = new;
        is_new
    });
}

fn judge(context: &X509Context, config: &Config, own: &OwnIdentity) -> Standing {
    let svids = context.svids();
    let chosen = svids.iter().find(|svid| own.is_own(svid.spiffe_id()));
    if let Some(svid) = chosen {
        return end_of(svid.leaf().as_bytes())
            .map_or(Standing::Lacking(Lack::Certificate), |until| Standing::Issued { until });
    }
    let foreign = |svid: &&Arc<X509Svid>| *svid.spiffe_id().trust_domain() != config.trust_domain;
    Standing::Lacking(match svids.iter().find(foreign) {
        Some(svid) => Lack::Foreign {
            id: svid.spiffe_id().to_string(),
            expected: config.trust_domain.to_string(),
        },
        None if svids.is_empty() => Lack::Entry,
        None => {
            let ids: Vec<String> = svids.iter().map(|svid| svid.spiffe_id().to_string()).collect();
            Lack::Stranger { ids: ids.join(" and ") }
        }
    })
}
