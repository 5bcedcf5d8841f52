//! CSI node plugin of the secret manager.

use std::{env, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Parser;
use vsecm_csi::{app, args::Args, health::Probe, listing::VolumesCommand, mount::probe};
use vsecm_node_agent_api::process;

fn main() -> anyhow::Result<ExitCode> {
    process::begin()?;
    // by hand: to clap, a command beside required flags would make none of them required
    let is_asked = |command: &str| env::args_os().nth(1).is_some_and(|word| word == command);
    if is_asked("probe") {
        return Probe::parse_from(env::args_os().skip(1)).run();
    }
    if is_asked("volumes") {
        return VolumesCommand::parse_from(env::args_os().skip(1)).run();
    }
    let args = Args::parse();
    probe::look(args.pretend_kernel).map_err(anyhow::Error::msg)?;
    if args.leave_network {
        // no thread may be there yet: each would keep the network of its own
        app::leave_network()
            .context("cannot leave the pod's network: the container must be privileged")?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(app::run(args));
    // a thread that a hostile server hangs must not keep the process
    runtime.shutdown_timeout(Duration::from_millis(100));
    result.map(|()| ExitCode::SUCCESS)
}
