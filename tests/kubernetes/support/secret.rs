//! The operator: the CLI in sentinel's pod.

use super::{helm::SYSTEM, kubectl::Kubectl, program::Output};

const SENTINEL: &str = "deploy/vsecm-sentinel";

/// Runs the CLI with its input.
#[track_caller]
pub(crate) fn safe(args: &[&str], stdin: &str) -> Output {
    let command: Vec<_> = ["safe"].iter().chain(args).copied().collect();
    Kubectl::namespace(SYSTEM).exec_with(SENTINEL, None, &command, stdin.as_bytes().to_vec())
}

/// Registers a value.
#[track_caller]
pub(crate) fn put(namespace: &str, name: &str, value: &str) {
    safe(&["-w", name, "-n", namespace, "-s", "-"], value).ok();
}

/// Deletes a secret.
#[track_caller]
pub(crate) fn delete(namespace: &str, name: &str) -> Output {
    safe(&["-w", name, "-n", namespace, "-d"], "")
}
