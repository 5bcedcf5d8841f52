//! What runs in sentinel's pod while nobody runs `safe`: it waits, says whether `safe` could be
//! run, and ends when it is told to.
//!
//! It has no rights that `safe` does not have, and sends nothing to Safe.

mod args;
mod following;
mod readiness;

use std::{ffi::OsString, io, path::Path, process::ExitCode, time::Duration};

use clap::Parser as _;
use time::OffsetDateTime;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::timeout,
};
use vsecm_safe_api::{
    client::chain,
    probe::{self, Readiness},
    process,
};

use self::{
    args::Args,
    readiness::{Standing, ready},
};
use crate::config::Config;

/// The environment cannot be used: the same code as of `safe`.
const USAGE: u8 = 2;
/// How late it may be told what no event tells: a token that came or went, an expiry.
const LOOK: Duration = Duration::from_secs(1);

/// Runs until SIGTERM or SIGINT.
pub(crate) fn wait(command_line: impl IntoIterator<Item = OsString>) -> ExitCode {
    let hardened = process::harden();
    let args = Args::parse_from(command_line);
    process::log_to_stderr("info");
    if let Err(error) = hardened {
        tracing::error!(%error, "sentinel cannot protect its memory");
        return ExitCode::FAILURE;
    }
    let config = match Config::parse(&args.environment) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(error = chain(&error), "sentinel cannot start");
            return USAGE.into();
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let waited = runtime.and_then(|runtime| {
        let waited = runtime.block_on(serve(&args, config));
        runtime.shutdown_background();
        waited
    });
    match waited {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = chain(&error), "sentinel cannot go on");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: &Args, config: Config) -> io::Result<()> {
    // first: the first process of a pod hears no signal without
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (readiness, asked) = watch::channel(Err("sentinel has just started".to_owned()));
    let (liveness, ready) = (Some(args.liveness), Some(args.readiness));
    let probes = probe::serve(liveness, ready, asked, None).await?;
    tracing::info!(
        liveness = probes.liveness().map(tracing::field::display),
        readiness = probes.readiness().map(tracing::field::display),
        "sentinel waits"
    );
    let (standing, seen) = watch::channel(Standing::Unknown);
    let token = config.token_file.clone();
    // both go on for ever
    tokio::select! {
        () = following::follow(config, standing) => {}
        () = tell(seen, &token, readiness) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("asked to end");
    Ok(())
}

/// Tells probes and the log; the log hears each change once, however often SPIRE is asked.
async fn tell(
    mut seen: watch::Receiver<Standing>,
    token: &Path,
    readiness: watch::Sender<Readiness>,
) {
    loop {
        // a change or the next look; that nobody follows any more cannot happen
        let _changed = timeout(LOOK, seen.changed()).await;
        let now = ready(&seen.borrow_and_update(), token, OffsetDateTime::now_utc());
        if *readiness.borrow() == now {
            continue;
        }
        match &now {
            Ok(()) => tracing::info!("sentinel is ready"),
            Err(reason) => tracing::warn!(reason, "sentinel is not ready"),
        }
        readiness.send_modify(|old| *old = now);
    }
}
