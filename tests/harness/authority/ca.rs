//! A certificate authority in memory and the X.509-SVIDs it issues.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use spiffe::{SpiffeId, TrustDomain, X509Svid};

/// How far before now a certificate begins, as SPIRE has it, for clocks that differ.
const BACKDATE: Duration = Duration::from_secs(10);

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The certificate library refused.
    #[error("cannot issue a certificate for {id}")]
    Issue {
        /// For whom.
        id: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// What was issued is not an SVID.
    #[error("what was issued for {id} is not an X.509-SVID")]
    NotAnSvid {
        /// For whom.
        id: String,
        /// Why.
        #[source]
        source: Box<spiffe::X509SvidError>,
    },
}

/// How long an SVID lasts, and what comes after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// A new SVID with a new key takes its place at half of this time, as with a SPIRE agent.
    Renewed(Duration),
    /// It ends after this time, and nothing follows.
    Once(Duration),
    /// It had ended that long ago when it was issued.
    Expired(Duration),
}

impl Lifetime {
    fn bounds(self, now: SystemTime) -> (SystemTime, SystemTime) {
        match self {
            Self::Renewed(ttl) | Self::Once(ttl) => (now - BACKDATE, now + ttl),
            Self::Expired(ago) => (now - ago - BACKDATE, now - ago),
        }
    }
}

/// The authority of one trust domain.
pub struct Ca {
    trust_domain: TrustDomain,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Ca");
        debug.field("trust_domain", &self.trust_domain);
        debug.finish_non_exhaustive()
    }
}

impl Ca {
    /// Makes an authority with a key of its own; a second one for the same trust domain is a
    /// forger's.
    ///
    /// # Errors
    /// [`CaError::Issue`].
    pub fn new(trust_domain: TrustDomain) -> Result<Self, CaError> {
        let uri = format!("spiffe://{trust_domain}");
        let make = || {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params.subject_alt_names = vec![SanType::URI(uri.clone().try_into()?)];
            CertifiedIssuer::self_signed(params, KeyPair::generate()?)
        };
        let issuer = make().map_err(|source| CaError::Issue { id: uri.clone(), source })?;
        Ok(Self { trust_domain, issuer })
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The CA certificate, which is the whole bundle of the trust domain.
    pub fn bundle(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// Issues an SVID with a new key.
    ///
    /// # Errors
    /// [`CaError::Issue`].
    pub fn issue(&self, id: &SpiffeId, lifetime: Lifetime) -> Result<Svid, CaError> {
        let now = SystemTime::now();
        let (not_before, not_after) = lifetime.bounds(now);
        let make = || {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            // verifiers of SVIDs ask for basicConstraints to be present, and to say no
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages =
                vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyAgreement];
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            params.subject_alt_names = vec![SanType::URI(id.to_string().try_into()?)];
            params.not_before = not_before.into();
            params.not_after = not_after.into();
            let certificate = params.signed_by(&key, &self.issuer)?;
            Ok((certificate.der().to_vec(), key.serialize_der()))
        };
        let (certificate, key) =
            make().map_err(|source| CaError::Issue { id: id.to_string(), source })?;
        Ok(Svid { id: id.clone(), certificate, key, not_after, bundle: self.issuer.der().to_vec() })
    }
}

/// An X.509-SVID with its key. `Debug` does not show the key.
pub struct Svid {
    pub(super) id: SpiffeId,
    pub(super) certificate: Vec<u8>,
    pub(super) key: Vec<u8>,
    pub(super) not_after: SystemTime,
    pub(super) bundle: Vec<u8>,
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Svid");
        debug.field("id", &self.id);
        debug.field("not_after", &self.not_after);
        debug.finish_non_exhaustive()
    }
}

impl Svid {
    /// Whose it is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// When it ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The end in seconds since 1970.
    pub(super) fn expires_at(&self) -> i64 {
        let since = self.not_after.duration_since(UNIX_EPOCH);
        since.map_or(0, |t| i64::try_from(t.as_secs()).unwrap_or(i64::MAX))
    }

    /// The chain for a TLS stack.
    pub fn certificates(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from(self.certificate.clone())]
    }

    /// The key for a TLS stack.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()))
    }

    /// The same as the crate `spiffe` has it.
    ///
    /// # Errors
    /// [`CaError::NotAnSvid`].
    pub fn to_x509_svid(&self) -> Result<X509Svid, CaError> {
        X509Svid::parse_from_der(&self.certificate, &self.key).map_err(|source| {
            CaError::NotAnSvid { id: self.id.to_string(), source: Box::new(source) }
        })
    }
}
