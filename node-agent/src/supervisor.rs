//! The first process of the container: starts the server again the moment it dies.
//!
//! The kubelet needs 1.8 s, then 12 s, then 25 s for that; here it takes milliseconds, and readers
//! of cached files notice nothing ([I6]). Little is done here, so that little can fail.

use std::{
    collections::VecDeque,
    env,
    ffi::OsString,
    fs, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, getppid},
};
use rustix::{
    fs::OFlags,
    process::{PidfdFlags, pidfd_open},
};
use tracing::{error, info, warn};

/// Tells a server how many were there before it.
const RESTARTS: &str = "VSECM_NODE_AGENT_RESTARTS";

/// In which so many deaths and no more are made up for.
const WINDOW: Duration = Duration::from_mins(1);

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
    /// What cannot be cured here is the kubelet's to show, and to slow down.
    #[error("the server died {0} times in a minute: the container ends")]
    GaveUp(usize),
    /// The supervisor died while its child started.
    #[error("the supervisor is gone")]
    Orphaned,
}

/// Starts `serve` with the flags of this process, again and again, until SIGTERM or SIGINT, but not
/// more than `most` times in a minute. Returns the exit code for this process.
///
/// # Errors
/// [`SupervisorError`].
pub fn supervise(most: usize) -> Result<u8, SupervisorError> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD].into_iter().collect();
    signals.thread_block().map_err(SupervisorError::Wait)?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&signals, flags).map_err(SupervisorError::Wait)?;
    // once: after the file was replaced the kernel would name one that is gone
    let program = env::current_exe().map_err(SupervisorError::Start)?;
    keep_started(&program, &signals, Deaths::at_most(most))
}

fn keep_started(
    program: &Path,
    signals: &SignalFd,
    mut deaths: Deaths,
) -> Result<u8, SupervisorError> {
    let mut pause = Duration::ZERO;
    for restarts in 0_u64.. {
        let started = Instant::now();
        match start(program, restarts) {
            Ok(child) => {
                info!(restarts, pid = child.as_raw(), "serving");
                if let Some(code) = watch_over(child, signals)? {
                    return Ok(code);
                }
            }
            // as long as this process lives there is hope, and somebody who logs
            Err(failure) => error!(%failure, "the server cannot be started"),
        }
        deaths.another(Instant::now())?;
        pause = next_pause(pause, started.elapsed());
        if told_to_stop(signals, pause)? {
            // there is no server whose end could go wrong
            return Ok(0);
        }
    }
    Ok(1)
}

/// When servers died.
struct Deaths {
    most: usize,
    recent: VecDeque<Instant>,
}

impl Deaths {
    fn at_most(most: usize) -> Self {
        Self { most, recent: VecDeque::new() }
    }

    /// One more, which is to be made up for.
    fn another(&mut self, now: Instant) -> Result<(), SupervisorError> {
        self.recent.retain(|then| now.saturating_duration_since(*then) < WINDOW);
        self.recent.push_back(now);
        if self.recent.len() > self.most {
            return Err(SupervisorError::GaveUp(self.recent.len()));
        }
        Ok(())
    }
}

/// Servers that this supervisor has started before this one.
pub fn restarts() -> u64 {
    env::var(RESTARTS).ok().and_then(|count| count.parse().ok()).unwrap_or_default()
}

/// Waits for `pause` while there is no child; whether a signal to stop came.
fn told_to_stop(signals: &SignalFd, pause: Duration) -> Result<bool, SupervisorError> {
    let end = Instant::now() + pause;
    loop {
        while let Some(signal) = signals.read_signal().map_err(SupervisorError::Wait)? {
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                info!(signal = signal.ssi_signo, "stopping without a server");
                return Ok(true);
            }
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        signalled(signals, left)?;
    }
}

fn next_pause(last: Duration, life: Duration) -> Duration {
    if life >= SHORT_LIFE {
        return Duration::ZERO;
    }
    (last * 2).clamp(PAUSE, LONGEST_PAUSE)
}

fn start(program: &Path, restarts: u64) -> io::Result<Pid> {
    let mut command = command(program);
    command.env(SUPERVISOR, std::process::id().to_string());
    command.env(RESTARTS, restarts.to_string());
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    // waited for by waitpid, with all orphans that the first process of a container inherits
    drop(child);
    Ok(Pid::from_raw(pid))
}

fn command(program: &Path) -> Command {
    let flags: Vec<OsString> = env::args_os().skip(2).collect();
    let mut command = Command::new(program);
    command.arg("serve").args(flags).env(THRESHOLD.0, THRESHOLD.1);
    command
}

/// Until the child is dead: `None` if it is to be started again, else this process's exit code.
///
/// A killed child can linger: one of its threads may wait in the kernel, unkillably, for a reader
/// who waits for an answer of this very child. Only a successor can give that answer, so it is the
/// death of the child's first thread that counts, not the end of all.
fn watch_over(child: Pid, signals: &SignalFd) -> Result<Option<u8>, SupervisorError> {
    let first_thread = FirstThread::of(child)?;
    let mut stopping = false;
    loop {
        if stopping {
            signalled(signals, FirstThread::LOOK)?;
        } else {
            first_thread.wait_with(signals)?;
        }
        while let Some(signal) = signals.read_signal().map_err(SupervisorError::Wait)? {
            if signal.ssi_signo == Signal::SIGCHLD as u32 {
                continue;
            }
            stopping = true;
            info!(signal = signal.ssi_signo, "stopping the server");
            if let Err(error) = kill(child, Signal::SIGTERM) {
                warn!(%error, "the server cannot be told to stop");
            }
        }
        let status = match reap(child)? {
            Some(status) => status,
            None if stopping || !first_thread.is_dead()? => continue,
            // its other threads have a moment to end as well
            None => {
                signalled(signals, LINGER)?;
                reap(child)?.unwrap_or_else(|| {
                    warn!("the server died, and lingers until a reader has its answer");
                    WaitStatus::StillAlive
                })
            }
        };
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

/// How long a dead server's other threads may take to end: microseconds, unless one is stuck.
const LINGER: Duration = Duration::from_millis(20);

fn signalled(signals: &SignalFd, within: Duration) -> Result<(), SupervisorError> {
    let within = PollTimeout::try_from(within).unwrap_or(PollTimeout::ZERO);
    let mut signals = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    match poll(&mut signals, within) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(e) => Err(SupervisorError::Wait(e)),
    }
}

/// The life of a process's first thread.
struct FirstThread {
    process: Pid,
    /// Readable when the thread has exited: the quick way. Since Linux 6.15 not while other threads
    /// of the process linger, so `/proc` is looked at as well.
    pidfd: Option<OwnedFd>,
}

impl FirstThread {
    /// `PIDFD_THREAD`, which is `O_EXCL` (Linux 6.9): the end of one thread, not of the process.
    const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(OFlags::EXCL.bits());

    /// How often `/proc` is looked at: stalls of readers are to stay below 250 ms.
    const LOOK: Duration = Duration::from_millis(50);

    fn of(child: Pid) -> Result<Self, SupervisorError> {
        let pid = rustix::process::Pid::from_raw(child.as_raw());
        let pid = pid.ok_or(SupervisorError::Wait(Errno::ESRCH))?;
        Ok(Self { process: child, pidfd: pidfd_open(pid, Self::THREAD).ok() })
    }

    /// Until a signal has come, or the thread may be dead.
    fn wait_with(&self, signals: &SignalFd) -> Result<(), SupervisorError> {
        let Some(pidfd) = &self.pidfd else {
            return signalled(signals, Self::LOOK);
        };
        let mut either = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(pidfd.as_fd(), PollFlags::POLLIN),
        ];
        let look = PollTimeout::try_from(Self::LOOK).unwrap_or(PollTimeout::ZERO);
        match poll(&mut either, look) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(e) => Err(SupervisorError::Wait(e)),
        }
    }

    fn is_dead(&self) -> Result<bool, SupervisorError> {
        if let Some(pidfd) = &self.pidfd {
            let mut thread = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            if poll(&mut thread, PollTimeout::ZERO).map_err(SupervisorError::Wait)? > 0 {
                return Ok(true);
            }
        }
        // the state stands after the name, which is in parentheses and may hold some itself
        Ok(fs::read_to_string(format!("/proc/{}/stat", self.process))
            .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|s| s.starts_with('Z'))))
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
    SigSet::empty().thread_set_mask().map_err(SupervisorError::Wait)?;
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
    use std::thread;

    use nix::sys::signal::raise;

    use super::*;

    /// Runs `test` on a thread of its own, to which `signal` has been sent.
    fn with_pending<T: Send + 'static>(
        signal: Signal,
        test: impl FnOnce(&SignalFd) -> T + Send + 'static,
    ) -> T {
        let run = move || {
            let signals = SigSet::from(signal);
            signals.thread_block().unwrap();
            let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
            let signals = SignalFd::with_flags(&signals, flags).unwrap();
            raise(signal).unwrap();
            test(&signals)
        };
        thread::spawn(run).join().unwrap()
    }

    #[test]
    fn a_supervisor_whose_server_cannot_be_started_can_be_stopped() {
        let code = with_pending(Signal::SIGTERM, |signals| {
            keep_started(Path::new("/nowhere/vsecm-node-agent"), signals, Deaths::at_most(10))
        });
        assert_eq!(code.unwrap(), 0);
    }

    #[test]
    fn a_server_that_dies_again_and_again_is_given_up() {
        let program = Path::new("/nowhere/vsecm-node-agent");
        let ended = with_pending(Signal::SIGCHLD, |signals| {
            keep_started(program, signals, Deaths::at_most(3))
        });
        assert!(matches!(ended, Err(SupervisorError::GaveUp(4))));
    }

    #[test]
    fn deaths_of_more_than_a_minute_ago_are_forgiven() {
        let mut deaths = Deaths::at_most(10);
        let began = Instant::now();
        for number in 0..100 {
            deaths.another(began + WINDOW / 10 * number).unwrap();
        }
        let last = began + WINDOW / 10 * 99;
        assert!(matches!(deaths.another(last), Err(SupervisorError::GaveUp(11))));
    }

    #[test]
    fn the_death_of_an_orphan_does_not_shorten_a_pause() {
        let pause = Duration::from_millis(20);
        let (stop, waited) = with_pending(Signal::SIGCHLD, move |signals| {
            let started = Instant::now();
            (told_to_stop(signals, pause), started.elapsed())
        });
        assert!(!stop.unwrap());
        assert!(waited >= pause, "{waited:?}");
    }

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

    #[test]
    fn the_death_of_a_first_thread_is_seen_before_it_is_reaped() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let by_pidfd = FirstThread::of(pid).unwrap();
        let by_proc = FirstThread { process: pid, pidfd: None };
        assert!(!by_pidfd.is_dead().unwrap() && !by_proc.is_dead().unwrap());
        child.kill().unwrap();
        let none = SignalFd::new(&SigSet::empty()).unwrap();
        for watch in [by_pidfd, by_proc] {
            while !watch.is_dead().unwrap() {
                watch.wait_with(&none).unwrap();
            }
        }
        child.wait().unwrap();
    }

    #[test]
    fn the_death_of_a_first_thread_is_seen_while_others_linger() {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "supervisor::tests::lingers_without_its_first_thread"])
            .args(["--ignored", "--nocapture", "--test-threads=1"])
            .env("SUPERVISOR_TEST_LINGER", "yes")
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let watch = FirstThread::of(pid).unwrap();
        let none = SignalFd::new(&SigSet::empty()).unwrap();
        let patience = Instant::now() + Duration::from_secs(20);
        while !watch.is_dead().unwrap() {
            assert!(Instant::now() < patience, "the death is not seen");
            watch.wait_with(&none).unwrap();
        }
        assert!(child.try_wait().unwrap().is_none(), "its other threads live");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    #[ignore = "a process of the test above"]
    #[expect(unsafe_code, reason = "nothing safe ends the first thread alone")]
    fn lingers_without_its_first_thread() {
        // the first thread waits for this one; a signal handler runs on it alone
        extern "C" fn end_this_thread(_signal: nix::libc::c_int) {
            // SAFETY: the call takes a number and does not return.
            unsafe { nix::libc::syscall(nix::libc::SYS_exit, 0) };
        }
        if env::var_os("SUPERVISOR_TEST_LINGER").is_none() {
            return;
        }
        let handler = nix::sys::signal::SigHandler::Handler(end_this_thread);
        // SAFETY: the handler makes one system call and touches nothing else.
        unsafe { nix::sys::signal::signal(Signal::SIGUSR2, handler) }.unwrap();
        let first = nix::unistd::getpid().as_raw();
        // SAFETY: three integers.
        unsafe { nix::libc::syscall(nix::libc::SYS_tgkill, first, first, nix::libc::SIGUSR2) };
        thread::sleep(Duration::from_mins(1));
    }
}
