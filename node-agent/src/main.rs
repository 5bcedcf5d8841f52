//! Table of contents: supervise, or serve; and what the pod asks around that.

use std::{io, io::Write as _, process::ExitCode};

use clap::Parser as _;
use vsecm_node_agent::{
    app,
    args::{Arguments, Command, Settings},
    mapping, prepare, privileges, probe, supervisor,
};
use vsecm_node_agent_api::process::{harden, log_to_stderr, raise_descriptor_limit};

fn main() -> ExitCode {
    let command = match harden() {
        Ok(()) => Arguments::parse().command,
        Err(error) => return no(&error.into()),
    };
    let ended = match command {
        Command::Supervise(settings) => supervise(&settings),
        Command::Serve(settings) => serve(&settings),
        asked => return answer(asked).unwrap_or_else(|error| no(&error)),
    };
    ended.unwrap_or_else(|error| {
        tracing::error!(reason = format!("{error:#}"), "the process ends");
        ExitCode::FAILURE
    })
}

fn supervise(settings: &Settings) -> anyhow::Result<ExitCode> {
    log_to_stderr();
    privileges::give_up(settings.run_as)?;
    Ok(ExitCode::from(supervisor::supervise(settings.most_restarts)?))
}

fn serve(settings: &Settings) -> anyhow::Result<ExitCode> {
    supervisor::obey()?;
    log_to_stderr();
    raise_descriptor_limit()?;
    mapping::raise_lock_limit()?;
    app::serve(settings)?;
    Ok(ExitCode::SUCCESS)
}

/// What is asked from a terminal, a hook or the kubelet.
fn answer(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Probe { question, ports } => {
            writeln!(io::stdout(), "{}", probe::ask(ports.of(question)?)?)?;
        }
        Command::Prepare { folder } => prepare::prepare(&folder)?,
        Command::VolumesInUse { driver } => {
            let users = app::users_of(&driver)?;
            writeln!(io::stdout(), "{users}")?;
            if !users.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Supervise(_) | Command::Serve(_) => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn no(reason: &anyhow::Error) -> ExitCode {
    // where it cannot be written, the exit code says it
    drop(writeln!(io::stderr(), "{reason:#}"));
    ExitCode::FAILURE
}
