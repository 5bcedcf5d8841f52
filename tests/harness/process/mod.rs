//! A child process that ends with us, and a group that ends with it.

mod guard;
mod spawn;

pub(crate) use self::guard::Guard;

use std::{
    fs, io,
    process::{Command, ExitStatus},
    thread::JoinHandle,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tokio::{sync::watch, time::timeout};

/// A process could not be handled.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It did not start.
    #[error("{name} did not start")]
    Spawn {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It could not be signalled.
    #[error("{name} could not be sent {signal}")]
    Signal {
        /// Which.
        name: String,
        /// What.
        signal: Signal,
        /// Why.
        #[source]
        source: Errno,
    },
}

/// A running child, leader of a process group of its own, so that a signal of the terminal does
/// not reach it and that its children can be found.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    pid: Pid,
    end: ProcessEnd,
    waiter: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `command`.
    ///
    /// # Errors
    /// [`ProcessError::Spawn`].
    pub(crate) fn start(name: &str, command: Command) -> Result<Self, ProcessError> {
        let tied = spawn::tied_to_us(command)
            .map_err(|source| ProcessError::Spawn { name: name.to_owned(), source })?;
        Ok(Self {
            name: name.to_owned(),
            pid: tied.pid,
            end: ProcessEnd(tied.status),
            waiter: Some(tied.waiter),
        })
    }

    /// Its process id, which is also its group's.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// All processes of its group: itself and its descendants.
    pub(crate) fn group(&self) -> Vec<Pid> {
        group_members(self.pid)
    }

    /// Sends a signal to the process alone.
    ///
    /// # Errors
    /// [`ProcessError::Signal`].
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        kill(self.pid, signal).map_err(|source| ProcessError::Signal {
            name: self.name.clone(),
            signal,
            source,
        })
    }

    /// Something that can be awaited without holding the process.
    pub(crate) fn end(&self) -> ProcessEnd {
        self.end.clone()
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.end.has_come()
    }

    /// Asks the process to end, and makes what is left of its group end after `grace`.
    pub(crate) async fn stop(self, grace: Duration) -> Stopped {
        if self.signal(Signal::SIGTERM).is_err() && !self.has_ended() {
            return Stopped::ByForce;
        }
        let Ok(status) = timeout(crate::awaiting::patience(grace), self.end().wait()).await else {
            return Stopped::ByForce;
        };
        match (self.group().as_slice(), status) {
            ([], Some(status)) => Stopped::Gracefully(status),
            (left, _) => Stopped::Leaving(left.to_vec()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // ESRCH: all of the group has gone already
        if let Err(error) = killpg(self.pid, Signal::SIGKILL)
            && error != Errno::ESRCH
        {
            tracing::error!(name = self.name, %error, "a process group could not be killed");
        }
        if self.waiter.take().is_some_and(|waiter| waiter.join().is_err()) {
            tracing::error!(name = self.name, "a process could not be reaped");
        }
    }
}

/// How a process came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// It ended by itself after SIGTERM.
    Gracefully(ExitStatus),
    /// It ended, but processes of its group did not, and had to be killed.
    Leaving(Vec<Pid>),
    /// It had to be killed.
    ByForce,
}

/// The end of a process, to be awaited.
#[derive(Clone, Debug)]
pub(crate) struct ProcessEnd(watch::Receiver<Option<ExitStatus>>);

impl ProcessEnd {
    /// Returns when the process has ended and been reaped.
    pub(crate) async fn wait(&self) -> Option<ExitStatus> {
        let mut status = self.0.clone();
        // closed: the thread that waited for the process has ended, and it with the process
        let last = status.wait_for(Option::is_some).await;
        last.ok().and_then(|status| *status)
    }

    pub(crate) fn has_come(&self) -> bool {
        self.0.borrow().is_some() || self.0.has_changed().is_err()
    }
}

/// Living processes of a group.
pub(crate) fn group_members(group: Pid) -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = processes
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let in_group = |pid: &i32| stat(*pid).is_some_and(|(state, of)| of == group && state != 'Z');
    pids.filter(in_group).map(Pid::from_raw).collect()
}

/// State and group of a process.
fn stat(pid: i32) -> Option<(char, Pid)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // pid (name) state ppid pgrp …, and the name may hold anything
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let group = fields.nth(1)?.parse().ok()?;
    Some((state, Pid::from_raw(group)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn the_end_of_a_child_is_heard_of() {
        let process = Process::start("sh", shell("exit 7")).unwrap();
        let status = timeout(SOON, process.end().wait()).await.unwrap();
        assert_eq!(status.unwrap().code(), Some(7));
        assert!(process.has_ended());
    }

    #[tokio::test]
    async fn dropping_a_child_ends_its_whole_group() {
        let process = Process::start("sh", shell("sleep 100 & sleep 100")).unwrap();
        let group = process.pid();
        let forked = || group_members(group).len() > 1;
        crate::awaiting::until("a second process", SOON, forked).await.unwrap();
        drop(process);
        let empty = || group_members(group).is_empty();
        crate::awaiting::until("an empty group", SOON, empty).await.unwrap();
    }

    #[tokio::test]
    async fn a_child_that_does_not_listen_is_stopped_by_force() {
        let deaf = shell("trap '' TERM; echo; while :; do sleep 1; done");
        let process = Process::start("sh", deaf).unwrap();
        let ignores = || {
            let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
            let mask = u64::from_str_radix(mask.unwrap().trim(), 16).unwrap();
            mask & (1 << (Signal::SIGTERM as i32 - 1)) != 0
        };
        crate::awaiting::until("a deaf child", SOON, ignores).await.unwrap();
        let grace = Duration::from_millis(10);
        assert_eq!(process.stop(grace).await, Stopped::ByForce);
    }
}
