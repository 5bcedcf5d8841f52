//! What a process of this system does before anything else.

use std::io;

use nix::sys::{
    prctl,
    resource::{Resource, getrlimit, setrlimit},
};
use rustls::SupportedCipherSuite;
use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter,
    filter::filter_fn,
    fmt::{self, MakeWriter},
    prelude::*,
};

/// What logs whole answers of the API server, also as a warning: one has the root key in it,
/// another sentinel's token ([I7]). No `RUST_LOG` opens it.
const WITH_BODIES: &str = "kube_client::client";

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
    log_to(io::stderr, filter).init();
}

fn log_to<W>(writer: W, filter: EnvFilter) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let bodiless = filter_fn(|metadata| metadata.target() != WITH_BODIES);
    let lines = fmt::layer().json().flatten_event(true).with_writer(writer);
    tracing_subscriber::registry().with(filter).with(lines.with_filter(bodiless))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_level_brings_an_answer_of_the_api_server_into_the_log() {
        let log = Log::default();
        for level in ["info", "trace", "kube_client::client=trace"] {
            let writer = log.clone();
            let filter = EnvFilter::new(level);
            tracing::subscriber::with_default(log_to(move || writer.clone(), filter), || {
                tracing::warn!(target: "kube_client::client", "{{canary}}");
                tracing::error!(target: "kube_client::client::builder", "{level}");
            });
            let bytes = log.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let text = String::from_utf8(bytes).unwrap();
            assert!(!text.contains("canary") && text.contains(level), "{text}");
        }
    }
}
