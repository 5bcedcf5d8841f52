//! Starting a child that cannot outlive us.

use std::{
    io,
    os::unix::process::{CommandExt, parent_id},
    process::{self, Command, ExitStatus},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use nix::{
    sys::{prctl::set_pdeathsig, signal::Signal},
    unistd::Pid,
};
use tokio::sync::watch;

/// A child, and the thread that started it and waits for it.
#[derive(Debug)]
pub(super) struct Tied {
    pub(super) pid: Pid,
    /// `None` until the child has been reaped; closed then.
    pub(super) status: watch::Receiver<Option<ExitStatus>>,
    pub(super) waiter: JoinHandle<()>,
}

/// Starts `command` in a process group of its own, to be killed when we end, however we end.
///
/// The kernel kills such a child when the *thread* that forked it ends, and threads of a runtime
/// come and go: so each child has a thread, which lives until the child has been reaped.
pub(super) fn tied_to_us(mut command: Command) -> io::Result<Tied> {
    command.process_group(0);
    tie(&mut command);
    let (reply, started) = mpsc::channel();
    let (report, status) = watch::channel(None);
    let work = move || match command.spawn() {
        Ok(mut child) => {
            let told = reply.send(Ok(Pid::from_raw(child.id().cast_signed())));
            if let (Ok(()), Ok(status)) = (told, child.wait()) {
                report.send_replace(Some(status));
            }
        }
        Err(error) => {
            // nobody waits for the answer only if the caller has gone
            let _told: Result<(), _> = reply.send(Err(error));
        }
    };
    let waiter = thread::Builder::new().name("waiter".to_owned()).spawn(work)?;
    let gone = |_gone| io::Error::other("the thread that starts the process ended");
    let pid = started.recv().map_err(gone)??;
    Ok(Tied { pid, status, waiter })
}

#[expect(unsafe_code, reason = "std has no safe way to set a death signal")]
fn tie(command: &mut Command) {
    let us = process::id();
    let tie = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // we may have ended before the line above
        if parent_id() != us {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe work may be done: these are the system
    // calls prctl and getppid, and errors that allocate nothing
    unsafe {
        command.pre_exec(tie);
    }
}
