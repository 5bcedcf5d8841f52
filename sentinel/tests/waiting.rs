//! `vsecm-sentinel` where SPIRE and token are missing: it waits, says so, and ends when asked to.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should panic")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Lines, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixListener,
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

fn command(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vsecm-sentinel"));
    command
        .env_clear()
        .env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", home.join("agent.sock").display()))
        .env("VSECM_SENTINEL_TOKEN_FILE", home.join("token"))
        .env("VSECM_PROBE_LIVENESS_PORT", "127.0.0.1:0")
        .env("VSECM_PROBE_READINESS_PORT", "127.0.0.1:0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

struct Waiting {
    process: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _killed = self.process.kill();
        let _reaped = self.process.wait();
    }
}

impl Waiting {
    fn start(home: &Path) -> Self {
        let mut process = command(home).spawn().unwrap();
        let log = BufReader::new(process.stderr.take().unwrap()).lines();
        Self { process, log }
    }

    /// The next line of the log with this field.
    fn next(&mut self, field: &str) -> Value {
        let lines = self.log.by_ref().map(|line| serde_json::from_str(&line.unwrap()).unwrap());
        let mut lines = lines.filter(|line: &Value| line.get(field).is_some());
        lines.next().unwrap_or_else(|| panic!("it ended without a line that has {field}"))
    }

    fn end(&mut self, signal: Signal) -> Option<i32> {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).unwrap();
        self.process.wait().unwrap().code()
    }
}

fn ask(at: &Value) -> (u16, String) {
    let at: SocketAddr = at.as_str().unwrap().parse().unwrap();
    let mut stream = TcpStream::connect(at).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: probe\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn without_spire_and_token_it_lives_is_not_ready_and_says_why_once() {
    let home = tempfile::tempdir().unwrap();
    let mut waiting = Waiting::start(home.path());
    let probes = waiting.next("liveness");
    let reason = waiting.next("reason")["reason"].as_str().unwrap().to_owned();
    for part in ["agent.sock, does not exist", "the token of sentinel cannot be read", "token"] {
        assert!(reason.contains(part), "{reason}");
    }
    assert_eq!(ask(&probes["liveness"]), (200, "OK\n".to_owned()));
    assert_eq!(ask(&probes["readiness"]), (503, format!("{reason}\n")));

    fs::write(home.path().join("token"), "token\n").unwrap();
    let reason = waiting.next("reason")["reason"].as_str().unwrap().to_owned();
    assert!(!reason.contains("token of sentinel"), "{reason}");
    // an agent that listens and does not answer
    let _agent = UnixListener::bind(home.path().join("agent.sock")).unwrap();
    assert_eq!(waiting.end(Signal::SIGTERM), Some(0));
    let rest: Vec<String> = waiting.log.by_ref().map(Result::unwrap).collect();
    let repeated = rest.iter().filter(|line| line.contains("does not exist"));
    assert_eq!(repeated.count(), 0, "{rest:?}");
}

#[test]
fn it_ends_with_0_on_either_signal_also_while_an_agent_does_not_answer() {
    let home = tempfile::tempdir().unwrap();
    let _agent = UnixListener::bind(home.path().join("agent.sock")).unwrap();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut waiting = Waiting::start(home.path());
        waiting.next("liveness");
        assert_eq!(waiting.end(signal), Some(0), "{signal}");
    }
}

#[test]
fn an_environment_that_cannot_be_used_is_a_sentence_and_exit_code_2() {
    let home = tempfile::tempdir().unwrap();
    for (variable, value, said) in [
        ("SPIFFE_TRUST_DOMAIN", "Not A Domain", "is not the name of a trust domain"),
        ("VSECM_SAFE_ENDPOINT_URL", "http://safe/", "must be https://HOST"),
        ("VSECM_SPIFFEID_PREFIX_SENTINEL", "^spiffe://vsecm.com/[", "is not a regular expression"),
        ("VSECM_PROBE_READINESS_PORT", "8082", "it must be :PORT or ADDRESS:PORT"),
    ] {
        let output = command(home.path()).env(variable, value).output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{variable}: {log}");
        assert!(log.contains(said), "{variable}: {log}");
    }
}
