//! Cleans up after a playground that had no time to: Ctrl-C in `cargo test`, kill -9.
//!
//! Death signals do not reach node-agent, since the kernel forgets them when a process changes its
//! user, and mounts outlive everybody.

use std::{
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::unistd::Pid;

/// Reads lines with all process groups of now, until we say `done` or our end of the pipe closes.
const SCRIPT: &str = r#"
while read -r line; do
    [ "$line" = done ] && exit 0
    groups=$line
done
[ -z "$groups" ] || kill -KILL $groups
while read -r _ _ _ _ point _; do
    case $point in "$1"/*) umount -l "$(printf %b "$point")" ;; esac
done < /proc/self/mountinfo
"#;

/// A shell that waits for our end.
#[derive(Debug)]
pub(crate) struct Guard {
    shell: Child,
}

impl Guard {
    /// Watches over the mounts below `folder`.
    pub(crate) fn post(folder: &Path) -> io::Result<Self> {
        let shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "vsecm-guard"])
            .arg(folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // a signal of the terminal is for us alone
            .process_group(0)
            .spawn()?;
        Ok(Self { shell })
    }

    /// Watches over these process groups, and no others any more.
    pub(crate) fn watch(&mut self, groups: impl Iterator<Item = Pid>) -> io::Result<()> {
        let groups: Vec<_> = groups.map(|group| format!("-{group}")).collect();
        self.say(&groups.join(" "))
    }

    fn say(&mut self, line: &str) -> io::Result<()> {
        match &mut self.shell.stdin {
            Some(pipe) => pipe.write_all(format!("{line}\n").as_bytes()),
            None => Ok(()),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let dismissed = self.say("done").and_then(|()| self.shell.wait());
        if let Err(error) = dismissed {
            tracing::warn!(%error, "the guard of a playground had gone");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{awaiting, process::Process};

    const SOON: Duration = Duration::from_secs(10);

    fn sleeper() -> Process {
        let mut command = Command::new("sleep");
        command.arg("100");
        Process::start("sleep", command).unwrap()
    }

    #[tokio::test]
    async fn what_it_watches_over_ends_with_us() {
        let process = sleeper();
        let mut guard = Guard::post(Path::new("/nowhere")).unwrap();
        guard.watch([process.pid()].into_iter()).unwrap();
        // as if we had been killed
        drop(guard.shell.stdin.take());
        let ended = || process.has_ended();
        awaiting::until("the end", SOON, ended).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_told_to_go_touches_nothing() {
        let process = sleeper();
        let mut guard = Guard::post(Path::new("/nowhere")).unwrap();
        guard.watch([process.pid()].into_iter()).unwrap();
        drop(guard);
        assert!(!process.has_ended());
    }
}
