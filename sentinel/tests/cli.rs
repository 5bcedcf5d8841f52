//! The binary as a script meets it: help, refusals and exit codes that need no server.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
    process::{Command, Output, Stdio},
};

const CANARY: &str = "canary-7c1f9e";

fn command(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_safe"));
    command
        .args(args)
        .env_clear()
        .env("SPIFFE_ENDPOINT_SOCKET", uri(&home.join("no-agent.sock")))
        .env("VSECM_SAFE_SOURCE_ACQUISITION_TIMEOUT", "200")
        .env("VSECM_SENTINEL_TOKEN_FILE", home.join("token"))
        .env("VSECM_SAFE_ENDPOINT_URL", "https://127.0.0.1:1/");
    command
}

fn safe(home: &Path, args: &[&str], stdin: &[u8]) -> Output {
    let mut child = command(home, args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // a command that is refused does not read
    let unread = child.stdin.take().unwrap().write_all(stdin);
    drop(unread);
    child.wait_with_output().unwrap()
}

fn uri(path: &Path) -> String {
    format!("unix://{}", path.display())
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

fn with_token(args: &[&str], stdin: &[u8]) -> Said {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("token"), "token\n").unwrap();
    said(&safe(home.path(), args, stdin))
}

fn said(output: &Output) -> Said {
    Said {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout.clone()).unwrap(),
        err: String::from_utf8(output.stderr.clone()).unwrap(),
    }
}

#[test]
fn help_starts_with_examples_and_the_first_takes_the_value_from_stdin() {
    for flag in ["-h", "--help"] {
        let Said { code, out, err } = with_token(&[flag], b"");
        assert_eq!((code, err.as_str()), (0, ""));
        let at = |text: &str| out.find(text).unwrap_or_else(|| panic!("no {text:?}:\n{out}"));
        assert!(at("safe -w db -s - < db.json") < at("safe -w db -s VALUE"));
        assert!(at("safe -w db -s VALUE") < at("Usage:"));
        assert!(at("Usage:") < at("Exit codes:"));
        at("exactly as they are");
        assert!(!out.contains("127.0.0.1:1"), "help shows no environment");
    }
}

#[test]
fn bad_usage_is_2_with_a_sentence_and_nothing_on_stdout() {
    for (args, sentence) in [
        (&[][..], "name a workload"),
        (&["-d"], "name a workload"),
        (&["-w", "db"], "give the value by stdin"),
        (&["-w", "db", "-s", "v", "-d"], "cannot be used with"),
        (&["-w", "db", "-s"], "a value is required"),
        (&["-w", "db", "-s", "-d"], "looks like a flag"),
        (&["-w", "../x", "-s", "v"], "name \"../x\" is not allowed"),
        (&["-w", "db", "-n", "Prod", "-s", "v"], "namespace \"Prod\""),
        (&["-w", "ok", "-w", "no/", "-s", "v"], "name \"no/\""),
        (&["-w", "db", "-s", "v", "-E", "soon"], "RFC 3339"),
        (&["-w", "db", "-s", "v", "-E", "9999-12-31T23:59:59-23:59"], "RFC 3339"),
        (&["-w", "db", "-s", "v", "-f", "toml"], "toml"),
        (&["-w", "db", "-s", "v", "--safe-url", "x"], "VSECM_SAFE_ENDPOINT_URL"),
        (&["-w", "db", "-s", "v", "--trust-domain", "A/"], "SPIFFE_TRUST_DOMAIN"),
        (&["-w", "db", "-s", ""], "the value is empty"),
        (&["-w", "db", "--secret-file", "/none"], "/none"),
        (&["--frobnicate"], "--frobnicate"),
    ] {
        let Said { code, out, err } = with_token(args, b"");
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
        assert!(err.contains(sentence), "{args:?}: {err}");
    }
}

#[test]
fn an_empty_stdin_is_refused_with_the_usual_cause() {
    let Said { code, err, .. } = with_token(&["-w", "db", "-s", "-"], b"");
    assert_eq!(code, 2);
    assert!(err.contains("kubectl exec hands it on only with -i"), "{err}");
}

#[test]
fn more_than_a_mebibyte_is_refused() {
    let long = vec![b'x'; 1024 * 1024 + 1];
    let Said { code, err, .. } = with_token(&["-w", "db", "-s", "-"], &long);
    assert_eq!(code, 2);
    assert!(err.contains("1 MiB"), "{err}");
}

#[test]
fn no_spire_is_3_with_one_sentence_for_each_pair() {
    let args = ["-w", "db", "-n", "prod", "-n", "test", "-s", "-"];
    let Said { code, out, err } = with_token(&args, CANARY.as_bytes());
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(
        err.contains("db in namespace prod was not registered: SPIRE gave no identity"),
        "{err}"
    );
    assert!(err.contains("its socket does not exist"), "{err}");
    assert!(err.contains("db in namespace test was not registered: it was not tried"), "{err}");
    assert!(err.contains("correlation id "), "{err}");
    assert_eq!(err.lines().count(), 2, "{err}");
    assert!(!err.contains(CANARY));
}

/// A pipe that nobody reads.
fn unread() -> Stdio {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn an_exit_code_is_the_same_where_nobody_reads_the_sentences() {
    let home = tempfile::tempdir().unwrap();
    for (args, code) in [
        (&["-w", "db", "-s", "v"][..], 3),
        (&["-w", "db", "-d", "--output", "json"], 3),
        (&["-w", "db", "-s", ""], 2),
        (&["--frobnicate"], 2),
        (&["-h"], 0),
    ] {
        let status = command(home.path(), args)
            .stdin(Stdio::null())
            .stdout(unread())
            .stderr(unread())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(code), "{args:?}");
    }
}

#[test]
fn no_token_is_3_and_names_the_file() {
    let home = tempfile::tempdir().unwrap();
    let Said { code, err, .. } = said(&safe(home.path(), &["-w", "db", "-d"], b""));
    assert_eq!(code, 3);
    assert!(err.contains(&home.path().join("token").display().to_string()), "{err}");
    assert!(err.contains("VSECM_SENTINEL_TOKEN_FILE"), "{err}");
}

#[test]
fn failures_are_json_where_json_is_asked_for() {
    let Said { code, out, .. } = with_token(&["-w", "db", "-d", "--output", "json"], b"");
    assert_eq!(code, 3);
    let outcomes: serde_json::Value = serde_json::from_str(&out).unwrap();
    let outcome = &outcomes[0];
    assert_eq!(outcome["name"], "db");
    assert_eq!(outcome["namespace"], "default");
    assert_eq!(outcome["action"], "delete");
    assert_eq!(outcome["outcome"], "failed");
    assert_eq!(outcome["error"]["code"], "no-identity");
    assert_eq!(outcome["correlationId"].as_str().unwrap().len(), 32);
}

#[test]
fn a_list_that_cannot_be_had_is_3() {
    let Said { code, out, err } = with_token(&["-l"], b"");
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(err.contains("nothing is listed: SPIRE gave no identity"), "{err}");
}

#[test]
fn a_value_in_the_arguments_is_warned_of_and_never_repeated() {
    let Said { code, out, err } = with_token(&["-w", "db", "-s", CANARY], b"");
    assert_eq!(code, 3);
    assert!(err.contains("process lists") && err.contains("audit log of the API server"), "{err}");
    assert!(!err.contains(CANARY) && !out.contains(CANARY));
    let Said { code, err, .. } = with_token(&["-w", "db", "-s", "two", CANARY], b"");
    assert_eq!(code, 2);
    assert!(err.contains("argument 5"), "{err}");
    assert!(!err.contains(CANARY), "{err}");
}

#[test]
fn no_log_level_brings_the_value_out() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("token"), "token\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_safe"))
        .args(["-w", "db", "-s", CANARY])
        .env_clear()
        .env("RUST_LOG", "trace")
        .env("SPIFFE_ENDPOINT_SOCKET", uri(&home.path().join("none")))
        .env("VSECM_SAFE_SOURCE_ACQUISITION_TIMEOUT", "200")
        .env("VSECM_SENTINEL_TOKEN_FILE", home.path().join("token"))
        .output()
        .unwrap();
    let Said { err, .. } = said(&output);
    assert!(!err.contains(CANARY), "{err}");
}
