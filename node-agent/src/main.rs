//! Table of contents: supervise, or serve.

use std::process::ExitCode;

use clap::Parser as _;
use vsecm_node_agent::{
    app,
    args::{Arguments, Command},
    privileges, supervisor,
};
use vsecm_node_agent_api::process::{harden, log_to_stderr, raise_descriptor_limit};

fn main() -> ExitCode {
    let ended = run();
    ended.unwrap_or_else(|error| {
        tracing::error!(reason = format!("{error:#}"), "the process ends");
        ExitCode::FAILURE
    })
}

fn run() -> anyhow::Result<ExitCode> {
    harden()?;
    match Arguments::parse().command {
        Command::Supervise(settings) => {
            log_to_stderr();
            privileges::give_up(settings.run_as)?;
            Ok(ExitCode::from(supervisor::supervise()?))
        }
        Command::Serve(settings) => {
            supervisor::obey()?;
            log_to_stderr();
            raise_descriptor_limit()?;
            app::serve(&settings)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
