//! The first process of the container: starts the server again the moment it dies.
//!
//! The kubelet needs 1.8 s, then 12 s, then 25 s for that; here it takes milliseconds, and readers
//! of cached files notice nothing ([I6]). Little is done here, so that little can fail.

use std::{
    env,
    ffi::OsString,
    io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{SigSet, Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, getppid},
};
use tracing::{error, info, warn};

/// Names the supervisor to its child.
const SUPERVISOR: &str = "VSECM_NODE_AGENT_SUPERVISOR";

/// glibc's variable, and the size from which it maps memory instead of taking it from the heap.
///
/// fuser has a zeroed buffer of 16 MiB per volume. glibc raises its threshold when the first of
/// them is freed; from then on they come from the heap, where zeroing them touches every page:
/// 483 MB instead of 3 MB at 110 volumes. A threshold that is set is never raised.
const THRESHOLD: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "131072");

/// A child that lived less than this is not started again at once.
const SHORT_LIFE: Duration = Duration::from_millis(100);
/// The first pause after a short life; it doubles …
const PAUSE: Duration = Duration::from_millis(10);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Why there is nothing to supervise, or nobody who supervises.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SupervisorError {
    /// This program could not be found or started again.
    #[error("cannot start the server")]
    Start(#[source] io::Error),
    /// Signals could not be waited for.
    #[error("cannot wait for signals and children")]
    Wait(#[source] Errno),
    /// The supervisor died while its child started.
    #[error("the supervisor is gone")]
    Orphaned,
}

/// Starts `serve` with the flags of this process, again and again, until SIGTERM or SIGINT.
/// Returns the exit code for this process.
///
/// # Errors
/// [`SupervisorError`].
pub fn supervise() -> Result<u8, SupervisorError> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD]
        .into_iter()
        .collect();
    signals.thread_block().map_err(SupervisorError::Wait)?;
    // once: after the file was replaced the kernel would name one that is gone
    let program = env::current_exe().map_err(SupervisorError::Start)?;
    let mut pause = Duration::ZERO;
    for restarts in 0_u64.. {
        let started = Instant::now();
        match start(&program) {
            Ok(child) => {
                info!(restarts, pid = child.as_raw(), "serving");
                if let Some(code) = watch_over(child, &signals)? {
                    return Ok(code);
                }
            }
            // as long as this process lives there is hope, and somebody who logs
            Err(failure) => error!(%failure, "the server cannot be started"),
        }
        pause = next_pause(pause, started.elapsed());
        thread::sleep(pause);
    }
    Ok(1)
}

fn next_pause(last: Duration, life: Duration) -> Duration {
    if life >= SHORT_LIFE {
        return Duration::ZERO;
    }
    (last * 2).clamp(PAUSE, LONGEST_PAUSE)
}

fn start(program: &Path) -> io::Result<Pid> {
    let child = command(program)
        .env(SUPERVISOR, std::process::id().to_string())
        .spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    // waited for by waitpid, with all orphans that the first process of a container inherits
    drop(child);
    Ok(Pid::from_raw(pid))
}

fn command(program: &Path) -> Command {
    let flags: Vec<OsString> = env::args_os().skip(2).collect();
    let mut command = Command::new(program);
    command
        .arg("serve")
        .args(flags)
        .env(THRESHOLD.0, THRESHOLD.1);
    command
}

/// Until the child is dead: `None` if it is to be started again, else this process's exit code.
fn watch_over(child: Pid, signals: &SigSet) -> Result<Option<u8>, SupervisorError> {
    let mut stopping = false;
    loop {
        match signals.wait().map_err(SupervisorError::Wait)? {
            Signal::SIGCHLD => {}
            signal => {
                stopping = true;
                info!(%signal, "stopping the server");
                if let Err(error) = kill(child, Signal::SIGTERM) {
                    warn!(%error, "the server cannot be told to stop");
                }
            }
        }
        let Some(status) = reap(child)? else { continue };
        if stopping {
            let code = match status {
                WaitStatus::Exited(_, code) => u8::try_from(code).unwrap_or(1),
                _ => 1,
            };
            return Ok(Some(code));
        }
        error!(?status, "the server died, and is started again");
        return Ok(None);
    }
}

/// Takes all dead children; the status of `child` if it is among them.
fn reap(child: Pid) -> Result<Option<WaitStatus>, SupervisorError> {
    let mut found = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(found),
            Ok(status) if status.pid() == Some(child) => found = Some(status),
            Ok(_orphan) => {}
            Err(Errno::EINTR) => {}
            Err(e) => return Err(SupervisorError::Wait(e)),
        }
    }
}

/// What the server does before all else: dies with its supervisor, takes its signals back, and
/// has the allocator's threshold set.
///
/// # Errors
/// [`SupervisorError`].
pub fn obey() -> Result<(), SupervisorError> {
    // the mask is inherited over exec
    SigSet::empty()
        .thread_set_mask()
        .map_err(SupervisorError::Wait)?;
    if let Some(supervisor) = env::var_os(SUPERVISOR) {
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(SupervisorError::Wait)?;
        // it may have died before that; then nobody would ever end this process
        let parent = getppid().to_string();
        if supervisor.to_str() != Some(parent.as_str()) {
            return Err(SupervisorError::Orphaned);
        }
    }
    if env::var_os(THRESHOLD.0).is_none() {
        // glibc reads it before main
        let program = env::current_exe().map_err(SupervisorError::Start)?;
        let error = command(&program).exec();
        return Err(SupervisorError::Start(error));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_lived_is_started_again_at_once() {
        assert_eq!(next_pause(LONGEST_PAUSE, SHORT_LIFE), Duration::ZERO);
    }

    #[test]
    fn a_server_that_dies_young_again_and_again_gets_growing_pauses() {
        let mut pauses = Vec::new();
        let mut pause = Duration::ZERO;
        for _ in 0..9 {
            pause = next_pause(pause, Duration::from_millis(1));
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    }
}
