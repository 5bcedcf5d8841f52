//! The operator's hand: the CLI `safe`, and `vsecm-sentinel`, which waits in the pod where `safe` is
//! run.
//!
//! ```text
//! argv, environment -> args -> command -> session -> Safe (mutual TLS, second proof)
//!                      input ----^           |
//!                 stdout, stderr <- output <- outcome
//! ```
//!
//! - `args`: what may be said on the command line; `config`: what comes from the environment;
//! - `input`: the value of a secret, from stdin, a file or an argument;
//! - `validity`: from when until when a value is shown;
//! - `command`: one file per verb, and the exit codes;
//! - `identity`: which of SPIRE's identities is sentinel's;
//! - `session`: the way to Safe, and to nobody else; `failure`: why it was not gone;
//! - `outcome`: what became of each pair of workload and namespace;
//! - `output`: tables, JSON and sentences. Nothing here can print a value: there is no type for it;
//! - `listener`: a reader who has gone away changes neither what is done nor the exit code;
//! - `pod`: the waiting process and its probes.

mod args;
mod command;
mod config;
mod failure;
mod identity;
mod input;
mod listener;
mod outcome;
mod output;
mod pod;
mod session;
mod validity;

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use time::OffsetDateTime;
use vsecm_safe_api::{client::chain, process};

use crate::{
    args::Args,
    command::{Command, Context, Exit, UsageError},
    config::Config,
    listener::Listener,
    session::CorrelationId,
};

/// Runs the CLI with the arguments of this process.
pub fn run(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    let argv: Vec<OsString> = argv.into_iter().collect();
    let mut out = Listener::new(io::stdout().lock());
    let mut err = Listener::new(io::stderr());
    let exit = run_hardened(&argv, &mut out, &mut err).and_then(|exit| {
        out.flush()?;
        Ok(exit)
    });
    match exit {
        Ok(exit) => exit.into(),
        Err(e) => {
            let unheard = writeln!(err, "safe: {e}");
            // with stderr gone too, only the exit code is left to say it
            drop(unheard);
            Exit::Refused.into()
        }
    }
}

/// Waits in sentinel's pod until it is told to end.
pub fn wait(argv: impl IntoIterator<Item = OsString>) -> ExitCode {
    pod::wait(argv)
}

fn run_hardened(argv: &[OsString], out: &mut dyn Write, err: &mut dyn Write) -> io::Result<Exit> {
    process::harden()?;
    process::log_to_stderr("off");
    let parsed = match Args::parse(argv) {
        Ok(parsed) => parsed,
        Err(unparsed) => return unparsed.say(out, err),
    };
    let form = parsed.output;
    let parsed = Config::parse(&parsed.environment)
        .map_err(UsageError::from)
        .and_then(|config| Ok((config, Command::parse(parsed, OffsetDateTime::now_utc())?)));
    let (config, command) = match parsed {
        Ok(parsed) => parsed,
        Err(usage) => {
            writeln!(err, "safe: {}; see safe -h", chain(&usage))?;
            return Ok(Exit::Usage);
        }
    };
    let context = Context { config, form, correlation: CorrelationId::random()?, out, err };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let exit = runtime.block_on(command.run(context));
    // a resolver thread that still waits for DNS must not hold the answer back
    runtime.shutdown_background();
    exit
}
