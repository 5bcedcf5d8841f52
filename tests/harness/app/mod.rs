//! The program `vsecm-playground`.

mod args;
mod pod;
mod up;

use std::{
    error::Error,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

use self::args::{Action, Arguments};
use crate::{demo, layout::Layout, namespace, shell};

/// Why the program failed: printed with all its causes, once, at the end.
type Failure = Box<dyn Error>;

/// Runs the program.
pub fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let sentence = format!("vsecm-playground: {}\n", chain(failure.as_ref()));
            // stderr may be gone, and then there is nobody to tell
            let _told: io::Result<()> = io::stderr().write_all(sentence.as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run(action: Action) -> Result<(), Failure> {
    match action {
        Action::Up(arguments) => {
            // before the runtime, whose threads would forbid it
            let home = namespace::enter_if_needed()?;
            log_to_stderr();
            Runtime::new()?.block_on(up::run(arguments, home))
        }
        Action::Demo => {
            let home = namespace::enter_if_needed()?;
            Ok(Runtime::new()?.block_on(demo::run(home))?)
        }
        Action::Pod(command) => pod::run(command),
        Action::Shell(arguments) => {
            let layout = Layout::existing(&arguments.dir)?;
            namespace::enter(&layout)?;
            match shell::become_command(&layout, &arguments.command, &[])? {}
        }
    }
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
