//! Mutual TLS to Safe as a workload: Safe is checked with this process's own live bundles, the
//! certificate shown is the pod's.

use std::sync::Arc;

use rustls::{
    ClientConfig, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};

use crate::identity::Identity;

/// The pod's certificate and key do not belong together, or are of an unknown kind.
#[derive(Debug, thiserror::Error)]
#[error("the certificate and key of {id} cannot be used for TLS")]
pub struct TlsError {
    id: String,
    #[source]
    source: rustls::Error,
}

/// Accepts only Safe as the server; shows this process's own certificate, unless told otherwise.
#[derive(Clone, Debug)]
pub struct BaseConfig(Arc<ClientConfig>);

#[derive(Debug)]
struct OneCertificate(Arc<CertifiedKey>);

impl ResolvesClientCert for OneCertificate {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl BaseConfig {
    /// From what [`vsecm_safe_api::client::tls_config`] makes.
    pub fn new(config: ClientConfig) -> Self {
        Self(Arc::new(config))
    }

    /// Showing this process's own identity.
    pub fn own(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }

    /// The same, showing `identity`. Sessions are never resumed: one would carry an identity over
    /// to where it was not shown.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn with_identity(&self, identity: &Identity) -> Result<Arc<ClientConfig>, TlsError> {
        let svid = &identity.svid;
        let certificate = |c: &spiffe::Certificate| CertificateDer::from(c.as_bytes().to_vec());
        let certificates = svid.cert_chain().iter().map(certificate).collect();
        // rustls and ring keep keys of their own and do not wipe them: the gap is theirs
        let key = PrivatePkcs8KeyDer::from(svid.private_key().as_bytes().to_vec());
        let certified = CertifiedKey::from_der(
            certificates,
            PrivateKeyDer::Pkcs8(key),
            &ring::default_provider(),
        )
        .map_err(|source| TlsError { id: svid.spiffe_id().to_string(), source })?;
        let mut config = ClientConfig::clone(&self.0);
        config.client_auth_cert_resolver = Arc::new(OneCertificate(Arc::new(certified)));
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}
