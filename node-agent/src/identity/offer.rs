//! Identities as they come from SPIRE's agent.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use spiffe::X509Svid;
use spire_api::pb::spire::api::agent::delegatedidentity::v1::{
    SubscribeToX509sviDsResponse, X509svidWithKey,
};
use tracing::warn;
use vsecm_node_agent_api::volume::PodRef;

/// An identity that SPIRE offers.
pub(super) struct Offer {
    pub(super) svid: Arc<X509Svid>,
    pub(super) expires: SystemTime,
}

/// Those of a message that are understood.
pub(super) fn parse(message: &SubscribeToX509sviDsResponse, pod: &PodRef) -> Vec<Offer> {
    let offer = |with_key: &X509svidWithKey| {
        let svid = with_key.x509_svid.as_ref()?;
        let chain: Vec<u8> = svid.cert_chain.concat();
        let hint = (!svid.hint.is_empty()).then(|| Arc::from(svid.hint.as_str()));
        let parsed = X509Svid::parse_from_der_with_hint(&chain, &with_key.x509_svid_key, hint);
        match parsed {
            Ok(parsed) => Some(Offer {
                svid: Arc::new(parsed),
                expires: SystemTime::UNIX_EPOCH
                    + Duration::from_secs(u64::try_from(svid.expires_at).unwrap_or_default()),
            }),
            Err(error) => {
                warn!(pod = %pod.name, namespace = %pod.namespace, %error, "an identity is not understood");
                None
            }
        }
    };
    message.x509_svids.iter().filter_map(offer).collect()
}
