//! Which of the identities that SPIRE gives to this pod is sentinel's.

use std::{path::Path, sync::Arc};

use spiffe::{SpiffeId, X509Svid, x509_source::SvidPicker};
use vsecm_safe_api::role::IdPattern;

/// Chooses by sentinel's pattern, never by order: SPIRE's is random, and a cluster may have an
/// entry for every pod beside sentinel's own, as SPIFFE's chart makes one.
#[derive(Clone, Debug)]
pub(crate) struct OwnIdentity(IdPattern);

impl OwnIdentity {
    pub(crate) fn new(sentinel: IdPattern) -> Self {
        Self(sentinel)
    }

    pub(crate) fn is_own(&self, id: &SpiffeId) -> bool {
        self.0.matches(&id.to_string())
    }
}

impl SvidPicker for OwnIdentity {
    fn pick_svid(&self, svids: &[Arc<X509Svid>]) -> Option<usize> {
        // with none of ours, Safe says better than silence what is wrong with the one that is there
        let own = svids.iter().position(|svid| self.is_own(svid.spiffe_id()));
        own.or_else(|| (!svids.is_empty()).then_some(0))
    }
}

/// Whether the Workload API is a Unix socket that does not exist.
pub(crate) fn is_missing(workload_api: &str) -> bool {
    workload_api.strip_prefix("unix:").is_some_and(|path| !Path::new(path).exists())
}
