//! What comes from the environment, parsed before anything is read or sent.

use std::{path::PathBuf, time::Duration};

use spiffe::{SpiffeIdError, TrustDomain};
use vsecm_safe_api::{
    client::{Address, ClientError},
    role::{IdPattern, PatternError, SAFE_PATTERN, SENTINEL_PATTERN, TRUST_DOMAIN},
};

use crate::args::Environment;

/// Why the environment cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error(transparent)]
    Address(#[from] ClientError),
    #[error("{TRUST_DOMAIN} {name:?} is not the name of a trust domain")]
    TrustDomain {
        name: String,
        #[source]
        source: SpiffeIdError,
    },
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

/// Where Safe and SPIRE are, and who is who.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// SPIRE's Workload API, as a URI.
    pub(crate) workload_api: String,
    /// How long SPIRE may take to give an identity.
    pub(crate) identity_timeout: Duration,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) address: Address,
    /// Who Safe is.
    pub(crate) safe: IdPattern,
    /// Who we are.
    pub(crate) sentinel: IdPattern,
    pub(crate) token_file: PathBuf,
}

impl Config {
    pub(crate) fn parse(environment: &Environment) -> Result<Self, ConfigError> {
        let name = &environment.trust_domain;
        let trust_domain = TrustDomain::new(name)
            .map_err(|source| ConfigError::TrustDomain { name: name.clone(), source })?;
        Ok(Self {
            workload_api: environment.spiffe_endpoint_socket.clone(),
            identity_timeout: Duration::from_millis(environment.source_timeout),
            trust_domain,
            address: environment.safe_url.parse()?,
            safe: IdPattern::parse(SAFE_PATTERN, &environment.safe_pattern, name)?,
            sentinel: IdPattern::parse(SENTINEL_PATTERN, &environment.sentinel_pattern, name)?,
            token_file: environment.token_file.clone(),
        })
    }
}
