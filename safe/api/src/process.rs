//! What a process of this system does before anything else.

use std::io;

use nix::sys::{
    prctl,
    resource::{Resource, getrlimit, setrlimit},
};
use rustls::SupportedCipherSuite;
use tracing_subscriber::EnvFilter;

/// Makes this process's memory unreadable to others and to core dumps ([I9]), and chooses the
/// one TLS provider of this system, which speaks TLS 1.3 only.
///
/// First thing in `main`: a child does not inherit it over `exec`.
pub fn harden() -> io::Result<()> {
    prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let mut provider = rustls::crypto::ring::default_provider();
    // other crates compile TLS 1.2 in, and spiffe-rustls has no switch: without a suite of it,
    // it is never spoken
    let is_tls13 = |suite: &SupportedCipherSuite| suite.tls13().is_some();
    provider.cipher_suites.retain(is_tls13);
    let installed = provider.install_default();
    installed.map_err(|_other| io::Error::other("another TLS provider is installed already"))
}

/// Takes all descriptors that this process may have, and says how many those are.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let (_soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// Logs JSON lines to stderr; the level comes from `RUST_LOG`, else `default`.
pub fn log_to_stderr(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .init();
}
