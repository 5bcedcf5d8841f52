//! CSI node plugin of the secret manager.

use std::time::Duration;

use clap::Parser;
use vsecm_csi::{app, args::Args};
use vsecm_node_agent_api::process;

fn main() -> anyhow::Result<()> {
    process::begin()?;
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(app::run(args));
    // a thread that a hostile server hangs must not keep the process
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}
