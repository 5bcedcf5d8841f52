//! The flags of `vsecm-sentinel`.

use std::net::SocketAddr;

use clap::Parser;
use vsecm_safe_api::probe;

use crate::args::Environment;

/// Waits in sentinel's pod, so that `safe` can be run in it, and answers probes.
#[derive(Debug, Parser)]
#[command(name = "vsecm-sentinel", version)]
pub(super) struct Args {
    /// Where liveness is asked for: :PORT or ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS", env = probe::LIVENESS, value_parser = probe::address, default_value = ":8081", hide_env_values = true)]
    pub(super) liveness: SocketAddr,
    /// Where readiness is asked for
    #[arg(long, value_name = "ADDRESS", env = probe::READINESS, value_parser = probe::address, default_value = ":8082", hide_env_values = true)]
    pub(super) readiness: SocketAddr,
    #[command(flatten)]
    pub(super) environment: Environment,
}
