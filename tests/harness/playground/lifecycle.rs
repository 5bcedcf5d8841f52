//! Starting, killing and ending the components.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    sync::PoisonError,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::signal::{self, Signal},
    unistd::Pid,
};

use super::{Playground, PlaygroundError, START_LIMIT};
use crate::{
    awaiting,
    component::Component,
    mounts,
    process::{Process, ProcessEnd, ProcessError, Stopped, group_members},
};

/// How long a component may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How long a pod may take to go at the end.
const EVICT_LIMIT: Duration = Duration::from_secs(30);

/// What [`Playground::crash_whole`] kills by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtOnce {
    /// The first process only.
    FirstProcess,
    /// All of them, as the kernel does with a control group that is out of memory.
    Everything,
}

impl Playground {
    /// Starts a component that does not run, and waits until it is ready.
    ///
    /// # Errors
    /// [`PlaygroundError::Running`], or why it does not start.
    pub async fn start_component(&self, component: Component) -> Result<(), PlaygroundError> {
        let file = |path: PathBuf| move |source| PlaygroundError::File { path, source };
        let socket = self.socket_of(component);
        if self.is_running(component) {
            return Err(PlaygroundError::Running(component));
        }
        if let Some(socket) = &socket {
            remove_if_there(socket).map_err(file(socket.clone()))?;
        }
        let log = self.setup.layout.log(component);
        let command = self.setup.command(component).map_err(file(log))?;
        let process = Process::start(component.binary(), command)?;
        self.processes().insert(component, process);
        self.tell_guard();
        let ready = || match &socket {
            Some(socket) => socket.exists(),
            None => listens(self.setup.safe_address),
        };
        let what = format!("{component}, ready,");
        let probe = || {
            if ready() {
                return Some(true);
            }
            (!self.is_running(component)).then_some(false)
        };
        match awaiting::value(&what, START_LIMIT, probe).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                Err(PlaygroundError::EndedAtOnce { component, said: self.last_words(component) })
            }
            Err(source) => {
                Err(PlaygroundError::NotReady { source, said: self.last_words(component) })
            }
        }
    }

    /// Says who is to be ended should we be killed.
    fn tell_guard(&self) {
        let living = |process: &&Process| !process.has_ended();
        let groups: Vec<_> = self.processes().values().filter(living).map(Process::pid).collect();
        let mut guard = self.guard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = guard.watch(groups.into_iter()) {
            tracing::warn!(%error, "the guard of the playground has gone");
        }
    }

    fn socket_of(&self, component: Component) -> Option<PathBuf> {
        let layout = &self.setup.layout;
        match component {
            Component::Keeper => Some(layout.keeper_socket()),
            Component::NodeAgent => Some(layout.node_agent_socket()),
            Component::Csi => Some(layout.csi_socket()),
            Component::Safe | Component::Sentinel => None,
        }
    }

    fn last_words(&self, component: Component) -> String {
        let log = self.log(component).unwrap_or_default();
        let last = log.lines().next_back();
        last.unwrap_or("(nothing)").to_owned()
    }

    /// Whether the component's first process lives.
    pub fn is_running(&self, component: Component) -> bool {
        let end = self.end_of(component);
        end.is_some_and(|end| !end.has_come())
    }

    /// All processes of a component: one, or node-agent's supervisor and server.
    pub fn pids(&self, component: Component) -> Vec<Pid> {
        self.processes().get(&component).map_or_else(Vec::new, Process::group)
    }

    /// The process that does the component's work, if it lives.
    pub fn serving_pid(&self, component: Component) -> Option<Pid> {
        let leader = self.processes().get(&component).map(Process::pid)?;
        let group = group_members(leader);
        match component {
            Component::NodeAgent => group.into_iter().find(|pid| *pid != leader),
            _ => group.contains(&leader).then_some(leader),
        }
    }

    /// Sends a signal to the process that does the component's work (node-agent's server, not its
    /// supervisor).
    ///
    /// # Errors
    /// [`PlaygroundError::NotRunning`], [`PlaygroundError::Process`].
    pub fn kill(&self, component: Component, signal: Signal) -> Result<Pid, PlaygroundError> {
        let pid = self.serving_pid(component).ok_or(PlaygroundError::NotRunning(component))?;
        match signal::kill(pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(pid),
            Err(source) => {
                Err(ProcessError::Signal { name: component.binary().to_owned(), signal, source }
                    .into())
            }
        }
    }

    /// Kills the process that does the component's work with SIGKILL and waits until it is dead.
    /// node-agent comes back by its supervisor, the others by [`Playground::start_component`].
    ///
    /// # Errors
    /// [`PlaygroundError::NotRunning`], [`PlaygroundError::Process`].
    pub async fn crash(&self, component: Component) -> Result<Pid, PlaygroundError> {
        let pid = self.kill(component, Signal::SIGKILL)?;
        let what = format!("the end of {component} (pid {pid})");
        let leader = self.processes().get(&component).map(Process::pid);
        let dead = || match leader {
            Some(leader) if leader == pid => !self.is_running(component),
            Some(leader) => !group_members(leader).contains(&pid),
            None => true,
        };
        awaiting::until(&what, STOP_LIMIT, dead).await?;
        self.tell_guard();
        Ok(pid)
    }

    /// Kills a component's first process, and with it the rest of its group: node-agent's server
    /// dies with its supervisor. `at_once` does not leave that to them.
    ///
    /// # Errors
    /// [`PlaygroundError::NotRunning`], [`PlaygroundError::Process`].
    pub async fn crash_whole(
        &self,
        component: Component,
        at_once: AtOnce,
    ) -> Result<(), PlaygroundError> {
        let leader = self.processes().get(&component).map(Process::pid);
        let leader = leader.ok_or(PlaygroundError::NotRunning(component))?;
        let killed = match at_once {
            AtOnce::FirstProcess => signal::kill(leader, Signal::SIGKILL),
            AtOnce::Everything => signal::killpg(leader, Signal::SIGKILL),
        };
        match killed {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(source) => {
                let (name, signal) = (component.binary().to_owned(), Signal::SIGKILL);
                return Err(ProcessError::Signal { name, signal, source }.into());
            }
        }
        let what = format!("the end of {component}");
        awaiting::until(&what, STOP_LIMIT, || !self.is_running(component)).await?;
        self.tell_guard();
        Ok(())
    }

    /// The end of a component's first process, to be awaited.
    pub(crate) fn end_of(&self, component: Component) -> Option<ProcessEnd> {
        self.processes().get(&component).map(Process::end)
    }

    /// Ends a component gracefully, which it must be within ten seconds.
    ///
    /// # Errors
    /// [`PlaygroundError::NotRunning`], or [`PlaygroundError::Leaks`] if it had to be killed or
    /// failed.
    pub async fn stop(&self, component: Component) -> Result<(), PlaygroundError> {
        let process = self.processes().remove(&component);
        let process = process.ok_or(PlaygroundError::NotRunning(component))?;
        let stopped = process.stop(STOP_LIMIT).await;
        self.tell_guard();
        let complaint = match stopped {
            Stopped::ByForce => format!("{component} did not end within {STOP_LIMIT:?}"),
            Stopped::Gracefully(status) if !status.success() => {
                format!("{component} ended with {status}")
            }
            Stopped::Leaving(pids) => format!("{component} left processes behind: {pids:?}"),
            Stopped::Gracefully(_) => return Ok(()),
        };
        Err(PlaygroundError::Leaks(vec![complaint]))
    }

    /// Deletes all pods, ends all components in order, and checks that nothing is left.
    ///
    /// # Errors
    /// [`PlaygroundError::Leaks`] with all that was; it is gone nevertheless.
    pub async fn shutdown(&self) -> Result<(), PlaygroundError> {
        let mut leaks = Vec::new();
        if self.is_running(Component::Csi) {
            let pods = self.pods();
            let evictions = pods.iter().map(|pod| self.delete_pod(pod, EVICT_LIMIT));
            for outcome in futures_util::future::join_all(evictions).await {
                leaks.extend(outcome.err().map(|error| error.to_string()));
            }
        }
        self.kubelet.abandon();
        for component in Component::RUNNING.into_iter().rev() {
            if self.is_running(component)
                && let Err(error) = self.stop(component).await
            {
                leaks.push(error.to_string());
            }
        }
        self.processes().clear();
        self.tell_guard();
        self.authority.shutdown().await;
        let root = self.setup.layout.root();
        match mounts::below(root) {
            Ok(left) => {
                let said = left.iter().map(|path| format!("mount {}", path.display()));
                leaks.extend(said);
            }
            Err(error) => leaks.push(format!("mounts cannot be listed: {error}")),
        }
        self.clean_up(&mut leaks);
        if leaks.is_empty() { Ok(()) } else { Err(PlaygroundError::Leaks(leaks)) }
    }

    /// What must go however the end came about.
    fn clean_up(&self, leaks: &mut Vec<String>) {
        let root = self.setup.layout.root();
        if let Err(error) = mounts::detach_below(root) {
            leaks.push(format!("a mount cannot be taken away: {error}"));
            return;
        }
        for component in Component::RUNNING {
            let socket = self.socket_of(component);
            let removed = socket.map_or(Ok(()), |socket| remove_if_there(&socket));
            if let Err(error) = removed {
                leaks.push(format!("the socket of {component} stays: {error}"));
            }
        }
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        self.kubelet.abandon();
        self.processes().clear();
        self.tell_guard();
        let mut leaks = Vec::new();
        self.clean_up(&mut leaks);
        for leak in leaks {
            tracing::error!(leak, "the end of a playground is not clean");
        }
    }
}

/// Removes a socket that nobody listens at any more.
fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => Err(io::Error::other("not a socket")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Whether somebody listens at `address`, without dialling: that would be a line in a log.
fn listens(address: SocketAddr) -> bool {
    let SocketAddr::V4(address) = address else {
        return false;
    };
    let ip = u32::from_ne_bytes(address.ip().octets());
    let local = format!("{ip:08X}:{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        // 0A is TCP_LISTEN
        fields.next() == Some(local.as_str()) && fields.nth(1) == Some("0A")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_seen_without_being_dialled() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(listens(address));
        drop(listener);
        assert!(!listens(address));
    }
}
