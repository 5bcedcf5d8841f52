//! Clients with an identity of the story's choice, past everything that ours do to stay honest.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    sign::CertifiedKey,
};
use tonic::transport::Channel;
use vsecm_safe_api::client::{self, Address};
use vsecm_tests::{Playground, authority::Svid};

/// Where a playground's Safe listens.
pub(crate) fn address(playground: &Playground) -> Address {
    format!("https://{}/", playground.safe_address()).parse().unwrap()
}

/// A certificate with its key, wherever it came from.
pub(crate) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// From DER and PKCS#8, as SPIRE's APIs hand them out.
    pub(crate) fn from_der(certificate: Vec<u8>, key: Vec<u8>) -> Self {
        Self { chain: vec![certificate.into()], key: PrivateKeyDer::Pkcs8(key.into()) }
    }
}

impl From<&Svid> for Identity {
    fn from(svid: &Svid) -> Self {
        Self { chain: svid.certificates(), key: svid.private_key() }
    }
}

/// A channel to `address` that shows `identity` (or no certificate) and believes any server.
pub(crate) fn channel(address: &Address, identity: Option<Identity>) -> Channel {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believe(provider)));
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(Show::new(identity))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    client::channel(address, Arc::new(config)).unwrap()
}

/// Shows its certificate whatever the server asks for: rustls itself would withhold an unfit one.
#[derive(Debug)]
struct Show(Arc<CertifiedKey>);

impl Show {
    fn new(identity: Identity) -> Self {
        let provider = ring::default_provider();
        let key = CertifiedKey::from_der(identity.chain, identity.key, &provider);
        Self(Arc::new(key.unwrap()))
    }
}

impl ResolvesClientCert for Show {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Believe(Arc<CryptoProvider>);

impl ServerCertVerifier for Believe {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
