//! Programs that are run to their end: kubectl, helm, the cluster's script.

use std::{
    ffi::OsStr,
    io::{Read as _, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

/// No program takes longer unless its call says so.
const LIMIT: Duration = Duration::from_mins(2);

/// A program to be run.
#[derive(Debug)]
pub(crate) struct Program {
    command: Command,
    line: String,
    stdin: Vec<u8>,
    within: Duration,
}

impl Program {
    pub(crate) fn new(program: &str) -> Self {
        let mut command = Command::new(program);
        // killing the group ends its children too
        command.process_group(0);
        Self { command, line: program.to_owned(), stdin: Vec::new(), within: LIMIT }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<str>) -> Self {
        self.line.push(' ');
        self.line.push_str(arg.as_ref());
        self.command.arg(arg.as_ref());
        self
    }

    pub(crate) fn args<T: AsRef<str>>(self, args: impl IntoIterator<Item = T>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    pub(crate) fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    pub(crate) fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// Runs it.
    ///
    /// # Panics
    /// When it does not start, or does not end in time.
    #[track_caller]
    pub(crate) fn run(self) -> Output {
        let Self { mut command, line, stdin, within } = self;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap_or_else(|e| panic!("{line}: did not start: {e}"));
        let group = Pid::from_raw(child.id().cast_signed());
        let (report, end) = mpsc::channel();
        let work = thread::spawn(move || report.send(converse(child, stdin)));
        let Ok((status, stdout, stderr)) = end.recv_timeout(within) else {
            // ESRCH: it ended just now
            let _killed: Result<(), _> = killpg(group, Signal::SIGKILL);
            panic!("{line}: did not end within {within:?}");
        };
        let _sent = work.join().expect("the conversation ended");
        Output { line, status, stdout, stderr }
    }
}

fn converse(mut child: Child, stdin: Vec<u8>) -> (ExitStatus, String, String) {
    let (mut pipe, mut out) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut err = child.stderr.take().unwrap();
    // who does not read its input gets it half: EPIPE says nothing of the outcome
    let talk = thread::spawn(move || pipe.write_all(&stdin));
    let errors = thread::spawn(move || {
        let mut bytes = Vec::new();
        let _read: Result<usize, _> = err.read_to_end(&mut bytes);
        bytes
    });
    let mut bytes = Vec::new();
    let _read: Result<usize, _> = out.read_to_end(&mut bytes);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let _talked: Result<(), _> = talk.join().unwrap();
    let errors = text(errors.join().unwrap());
    (child.wait().unwrap(), text(bytes), errors)
}

/// What a program left.
#[derive(Debug)]
pub(crate) struct Output {
    line: String,
    status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// Its exit code, or 128 and the signal that ended it.
    pub(crate) fn code(&self) -> i32 {
        let signal = || 128 + self.status.signal().unwrap_or_default();
        self.status.code().unwrap_or_else(signal)
    }

    /// Whether it ended with 0.
    pub(crate) fn is_ok(&self) -> bool {
        self.status.success()
    }

    /// What it printed.
    ///
    /// # Panics
    /// When it failed.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert!(self.is_ok(), "{}", self.tell());
        self.stdout
    }

    /// What it complained of.
    ///
    /// # Panics
    /// When it did not fail.
    #[track_caller]
    pub(crate) fn refused(self) -> String {
        assert!(!self.is_ok(), "{}: succeeded, and should not: {}", self.line, self.stdout);
        self.stderr
    }

    /// All of it, for a person.
    pub(crate) fn tell(&self) -> String {
        let Self { line, stdout, stderr, .. } = self;
        format!("{line}: exit code {}\n{stdout}\n{stderr}", self.code())
    }
}
