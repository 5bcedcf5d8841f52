//! What a process of this system does before anything else.

use std::{env, io};

use nix::sys::{
    prctl,
    resource::{Resource, getrlimit, setrlimit},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt,
    prelude::*,
};

/// Makes this process's memory unreadable to others and to core dumps ([I9]).
///
/// First thing in `main`: a child does not inherit it over `exec`.
pub fn harden() -> io::Result<()> {
    prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

/// All that a process which holds descriptors of volumes does first: [`harden`], logs, the limit.
pub fn begin() -> io::Result<()> {
    harden()?;
    log_to_stderr();
    raise_descriptor_limit()
}

/// Lifts the soft limit of open descriptors to the hard one: each volume has two.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let (_soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// Resolves at the first SIGTERM or SIGINT after this call.
pub fn terminated() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Logs JSON lines to stderr; the level comes from `RUST_LOG` (a level, or `target=level,…`), else
/// info. Audit lines are always written.
pub fn log_to_stderr() {
    // no EnvFilter: its regular expressions would be half of the keeper
    let filter = env::var("RUST_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = filter.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    // who wants a quiet log has not said that nobody is to know who reads
    let filter = filter.with_target("audit", LevelFilter::INFO);
    let lines = fmt::layer().json().flatten_event(true).with_writer(io::stderr);
    tracing_subscriber::registry().with(lines).with(filter).init();
}
