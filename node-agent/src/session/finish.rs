//! The end of a process that was told to end: every request that was taken is answered first.
//!
//! Nobody else can answer what this process has taken, unless the kernel sends it again (Linux
//! 6.9). So each session's number gets a socket of ours in place of `/dev/fuse`, with DESTROY in it,
//! after which fuser ends; what it answers there meanwhile is passed on to the kernel. A thread that
//! waits for a request is woken by a signal: its read begins anew, on the socket.

use std::{
    fs,
    io::{self, ErrorKind},
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::Signal,
};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::adopt;

/// An answer takes microseconds; a thread that is stuck must not hold the end up.
const LIMIT: Duration = Duration::from_secs(2);

/// The largest answer: `max_read`, and a header.
const ANSWER: usize = 128 * 1024 + 4096;

/// Names our DESTROY; the kernel's numbers are even and start low.
const OURS: u64 = u64::MAX >> 2;

static LIVE: Mutex<Vec<Weak<Enlisted>>> = Mutex::new(Vec::new());
static FINISHING: AtomicBool = AtomicBool::new(false);

/// A session that must be finished; enlisted for as long as this lives.
#[derive(Debug)]
pub(super) struct Enlisted {
    /// Under which fuser has it.
    number: RawFd,
    fuse: OwnedFd,
}

/// Enlists a session, whose descriptor is fuser's.
pub(super) fn enlist(session: impl AsFd) -> io::Result<Arc<Enlisted>> {
    let session = session.as_fd();
    let enlisted =
        Arc::new(Enlisted { number: session.as_raw_fd(), fuse: session.try_clone_to_owned()? });
    let mut live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
    live.retain(|one| one.strong_count() > 0);
    live.push(Arc::downgrade(&enlisted));
    drop(live);
    Ok(enlisted)
}

impl Enlisted {
    /// The kernel's end.
    pub(super) fn fuse(&self) -> &OwnedFd {
        &self.fuse
    }
}

/// Whether no session may begin any more, and the end of one is no news.
pub(super) fn is_finishing() -> bool {
    FINISHING.load(SeqCst)
}

/// Makes [`finish`] possible; until then its signal would end the process.
///
/// # Errors
/// The signal cannot be handled.
pub fn prepare() -> io::Result<()> {
    // the handler stays; it restarts calls that it interrupts
    signal(SignalKind::user_defined1()).map(drop)
}

/// Answers what was taken, and takes no more. Blocks for moments.
pub fn finish() {
    FINISHING.store(true, SeqCst);
    let live: Vec<_> = {
        let mut live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
        live.drain(..).filter_map(|one| one.upgrade()).collect()
    };
    let turned = live.iter().map(|session| (session, turn_away(session)));
    let turned: Vec<_> = turned.collect();
    let end = Instant::now() + LIMIT;
    if let Err(error) = wake_sessions() {
        warn!(%error, "sessions that wait for a request are not woken");
    }
    let mut passed_on = 0;
    for (session, ours) in turned {
        match ours.and_then(|ours| pass_on(&session.fuse, &ours, end)) {
            Ok(count) => passed_on += count,
            Err(error) => warn!(%error, "a session did not come to its end"),
        }
    }
    info!(sessions = live.len(), passed_on, "what was taken is answered");
}

fn turn_away(session: &Enlisted) -> io::Result<OwnedFd> {
    let (theirs, ours) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // a large answer has to fit
    rustix::net::sockopt::set_socket_send_buffer_size(&theirs, 2 * ANSWER)?;
    send(&ours, &destroy_request(), SendFlags::NOSIGNAL)?;
    adopt::replace_number(session.number, &theirs)?;
    Ok(ours)
}

/// DESTROY as the kernel would send it.
fn destroy_request() -> [u8; 40] {
    const DESTROY: u32 = 38;
    let words = [40_u32.to_ne_bytes(), DESTROY.to_ne_bytes()];
    let mut request = [0; 40];
    let written = words.into_iter().flatten().chain(OURS.to_ne_bytes());
    request.iter_mut().zip(written).for_each(|(to, from)| *to = from);
    request
}

/// Threads of fuser are called `fuser-0` and so on.
fn wake_sessions() -> io::Result<()> {
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?;
        // one that has just ended is no error
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let id = task.file_name().to_str().and_then(|id| id.parse().ok());
        if let (true, Some(id)) = (name.starts_with("fuser-"), id) {
            match adopt::signal_thread(id, Signal::SIGUSR1) {
                Err(error) if error.raw_os_error() != Some(nix::libc::ESRCH) => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Passes answers on until that to our DESTROY.
fn pass_on(fuse: &OwnedFd, ours: &OwnedFd, end: Instant) -> io::Result<usize> {
    let mut space = vec![0; ANSWER];
    let mut count = 0;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).map_err(io::Error::other)?;
        let mut waited = [PollFd::new(ours.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waited, left)? == 0 {
            return Err(ErrorKind::TimedOut.into());
        }
        let length = rustix::io::read(ours, &mut space)?;
        let answer = space.get(..length).unwrap_or_default();
        let unique = answer.get(8..16).and_then(|bytes| bytes.try_into().ok());
        match unique.map(u64::from_ne_bytes) {
            None | Some(OURS) => return Ok(count),
            Some(_) => {
                // a reader that has gone meanwhile needs no answer
                let passed = rustix::io::write(fuse, answer);
                count += usize::from(passed.is_ok());
            }
        }
    }
}
