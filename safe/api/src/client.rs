//! Mutual TLS to Safe that accepts nobody but Safe.

use std::{error::Error as StdError, fmt, io, str::FromStr, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, client::Resumption, pki_types::ServerName};
use spiffe::{SpiffeId, TrustDomain, X509Source};
use spiffe_rustls::{LocalOnly, mtls_client};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{
    codegen::http::Uri,
    transport::{Channel, Endpoint},
};

use crate::role::IdPattern;

/// The variable of Safe's address.
pub const ADDRESS: &str = "VSECM_SAFE_ENDPOINT_URL";
/// The default of [`ADDRESS`].
pub const DEFAULT_ADDRESS: &str = "https://vsecm-safe.vsecm-system.svc.cluster.local:8443/";

/// An idle connection is asked for a sign of life this often …
const KEEPALIVE: Duration = Duration::from_secs(20);
/// … and is dead when none comes in this time (design: 20 s + 5 s on both sides).
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// TCP connection and TLS handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no way to Safe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The address is not `https://HOST:PORT/`.
    #[error("{ADDRESS} must be https://HOST[:PORT]/, not {0:?}")]
    Address(String),
    /// The TLS configuration cannot be made from the identity source.
    #[error("cannot prepare mutual TLS")]
    Tls(#[source] spiffe_rustls::Error),
    /// The address cannot be dialled at all.
    #[error("cannot use the address {0}")]
    Endpoint(String, #[source] tonic::transport::Error),
}

/// Where Safe listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

impl FromStr for Address {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        let refused = || ClientError::Address(text.to_owned());
        let uri: Uri = text.parse().map_err(|_invalid| refused())?;
        let is_bare = uri.query().is_none() && matches!(uri.path(), "" | "/");
        let (Some("https"), Some(host), true) = (uri.scheme_str(), uri.host(), is_bare) else {
            return Err(refused());
        };
        // a port out of range is none to `Uri`, and must not become 443
        let after = uri.authority().and_then(|a| a.as_str().strip_prefix(host));
        let port = match after.map(|port| port.strip_prefix(':')) {
            Some(Some(port)) => port.parse().map_err(|_number| refused())?,
            Some(None) => 443,
            None => return Err(refused()),
        };
        if host.is_empty() || port == 0 {
            return Err(refused());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A TLS configuration with the identity and the live bundles of `source`, which trusts a server
/// of `trust_domain` only if its SPIFFE ID matches `safe`.
///
/// # Errors
/// [`ClientError::Tls`].
pub fn tls_config(
    source: X509Source,
    trust_domain: TrustDomain,
    safe: IdPattern,
) -> Result<ClientConfig, ClientError> {
    let mut config = mtls_client(source)
        .authorize(move |id: &SpiffeId| safe.matches(&id.to_string()))
        .trust_domain_policy(LocalOnly(trust_domain))
        .with_alpn_protocols([b"h2"])
        // the identity is the SPIFFE ID; a host name would only tell it to the network
        .with_config_customizer(|config| config.enable_sni = false)
        .build()
        .map_err(ClientError::Tls)?;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// A channel that dials when it is first used, and again after a failure.
///
/// # Errors
/// [`ClientError::Endpoint`].
pub fn channel(address: &Address, config: Arc<ClientConfig>) -> Result<Channel, ClientError> {
    let connector = TlsConnector::from(config);
    // the scheme is http since tonic must not add a TLS of its own
    let uri = format!("http://{address}");
    let endpoint = Endpoint::from_shared(uri)
        .map_err(|e| ClientError::Endpoint(address.to_string(), e))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    let address = address.clone();
    let dial = tower::service_fn(move |_uri: Uri| {
        let (connector, address) = (connector.clone(), address.clone());
        async move {
            let host = address.host.trim_matches(['[', ']']).to_owned();
            let stream = TcpStream::connect((host.as_str(), address.port)).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(host).map_err(io::Error::other)?;
            Ok::<_, io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        }
    });
    Ok(endpoint.connect_with_connector_lazy(dial))
}

/// An error and its causes in one sentence: tonic alone says only "transport error", while the
/// identity that was met stands at the end of the chain.
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        // an io::Error that wraps another error hides it from source()
        next = match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => cause.source(),
        };
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_https_host_and_port() {
        let address = |text: &str| text.parse::<Address>().map(|a| a.to_string()).ok();
        assert_eq!(address("https://safe:8443/"), Some("safe:8443".into()));
        assert_eq!(address("https://safe"), Some("safe:443".into()));
        assert_eq!(address("https://[::1]:1/"), Some("[::1]:1".into()));
        for bad in [
            "",
            "safe:8443",
            "http://safe:8443/",
            "https://safe/path",
            "https:///",
            "https://safe:99999/",
            "https://safe:/",
            "https://safe:0/",
            "https://user@safe:8443/",
        ] {
            assert_eq!(address(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_chain_is_printed_once_with_what_an_io_error_hides() {
        let met = io::Error::other("met spiffe://vsecm.com/x");
        let outer = io::Error::other(met);
        assert_eq!(chain(&outer), "met spiffe://vsecm.com/x");
    }
}
