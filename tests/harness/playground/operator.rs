//! The operator's CLI and its second proof.

use std::{io, process::Stdio};

use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::{Playground, PlaygroundError, random};
use crate::{
    Component,
    layout::{Layout, write_private},
    users::Users,
};

/// What the CLI answered.
#[derive(Clone, Debug)]
pub struct CliOutput {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

impl Playground {
    /// What the CLI needs in its environment.
    pub fn operator_environment(&self) -> Vec<(&'static str, String)> {
        self.setup.operator_environment()
    }

    /// Runs the CLI as sentinel's user, with `stdin`.
    ///
    /// # Errors
    /// [`PlaygroundError::Cli`] if it cannot be run at all.
    pub async fn safe(&self, args: &[&str], stdin: &[u8]) -> Result<CliOutput, PlaygroundError> {
        let failed = |error: io::Error| PlaygroundError::Cli {
            status: "no exit code".to_owned(),
            said: error.to_string(),
        };
        let command = self.setup.command(Component::Sentinel).map_err(failed)?;
        let mut command = tokio::process::Command::from(command);
        let mut child = command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        if let Some(mut input) = child.stdin.take() {
            match input.write_all(stdin).await {
                // it may refuse before it reads
                Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(failed(e)),
                _ => {}
            }
        }
        let output = child.wait_with_output().await.map_err(failed)?;
        Ok(CliOutput {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Registers a secret as an operator would, its value from stdin.
    ///
    /// # Errors
    /// [`PlaygroundError::Cli`] if the exit code is not 0.
    pub async fn register(
        &self,
        workload: &str,
        namespace: &str,
        value: &[u8],
    ) -> Result<(), PlaygroundError> {
        let args = ["-w", workload, "-n", namespace, "-s", "-"];
        succeeded(&self.safe(&args, value).await?)
    }

    /// Deletes a secret as an operator would.
    ///
    /// # Errors
    /// [`PlaygroundError::Cli`] if the exit code is not 0.
    pub async fn unregister(&self, workload: &str, namespace: &str) -> Result<(), PlaygroundError> {
        let args = ["-w", workload, "-n", namespace, "-d"];
        succeeded(&self.safe(&args, b"").await?)
    }
}

fn succeeded(output: &CliOutput) -> Result<(), PlaygroundError> {
    if output.code == Some(0) {
        return Ok(());
    }
    let status = output.code.map(|code| format!("exit code {code}"));
    Err(PlaygroundError::Cli {
        status: status.unwrap_or_else(|| "a signal".to_owned()),
        said: output.stderr.trim_end().to_owned(),
    })
}

/// The second proof: sentinel has the token, safe its digest.
pub(super) fn make_token(layout: &Layout, users: Users) -> Result<(), PlaygroundError> {
    let token = hex::encode(random::bytes::<32>()?);
    let digest = hex::encode(Sha256::digest(&token));
    for (path, content, reader) in [
        (layout.token(), token, Component::Sentinel),
        (layout.token_digest(), digest, Component::Safe),
    ] {
        let owner = users.owner(reader);
        write_private(&path, &content, owner)
            .map_err(|source| PlaygroundError::File { path, source })?;
    }
    Ok(())
}
