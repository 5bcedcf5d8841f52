//! Going into a playground: its environment, its namespaces.

use std::{
    convert::Infallible,
    env, fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Playground, component::endpoint, layout::Layout};

/// Names the folder for all other commands.
pub(crate) const FOLDER_VARIABLE: &str = "VSECM_PLAYGROUND";

/// A playground could not be gone into.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShellError {
    /// Its environment cannot be read.
    #[error("cannot read {}: is a playground running there?", path.display())]
    Environment {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The command does not start.
    #[error("cannot run {command}")]
    Command {
        /// Which.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The variables of a playground's DIR/env.
pub(crate) fn variables(playground: &Playground) -> Vec<(&'static str, String)> {
    let layout = playground.layout();
    let mut variables = playground.operator_environment();
    variables.push((FOLDER_VARIABLE, layout.root().display().to_string()));
    variables.push(("CSI_ENDPOINT", endpoint(&layout.csi_socket())));
    variables
}

/// Writes DIR/env whole or not at all.
pub(crate) fn write_environment(playground: &Playground) -> io::Result<()> {
    let mut lines = String::new();
    for (key, value) in variables(playground) {
        lines.extend(["export ", key, "=", &quoted(&value), "\n"]);
    }
    let binaries = playground.binaries().display().to_string();
    lines.extend(["export PATH=", &quoted(&binaries), ":\"$PATH\"\n"]);
    publish(&playground.layout().env_file(), &lines)
}

/// Writes a file that is never seen half.
pub(crate) fn publish(path: &Path, content: &str) -> io::Result<()> {
    let draft = path.with_extension("draft");
    fs::write(&draft, content)?;
    fs::rename(&draft, path)
}

/// Between single quotes a shell takes everything as it is but a single quote.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

/// What [`quoted`] was given, and the rest of the line.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text.strip_prefix('\'')?;
    loop {
        let (part, after) = rest.split_once('\'')?;
        value.push_str(part);
        match after.strip_prefix(r"\''") {
            Some(more) => {
                value.push('\'');
                rest = more;
            }
            None => return Some((value, after)),
        }
    }
}

fn parse(lines: &str, path: &str) -> Vec<(String, String)> {
    lines
        .lines()
        .filter_map(|line| {
            let (key, text) = line.strip_prefix("export ")?.split_once('=')?;
            let (mut value, rest) = unquoted(text)?;
            if rest == ":\"$PATH\"" {
                value = format!("{value}:{path}");
            }
            Some((key.to_owned(), value))
        })
        .collect()
}

/// Becomes `command` (or the user's shell) with the playground's environment and `more`.
pub(crate) fn become_command(
    layout: &Layout,
    command: &[String],
    more: &[(&str, PathBuf)],
) -> Result<Infallible, ShellError> {
    let file = layout.env_file();
    let lines = fs::read_to_string(&file)
        .map_err(|source| ShellError::Environment { path: file.clone(), source })?;
    let shell = env::var("SHELL").unwrap_or_else(|_unset| "/bin/sh".to_owned());
    let (program, arguments) = match command.split_first() {
        Some((program, arguments)) => (program.as_str(), arguments),
        None => (shell.as_str(), command),
    };
    let path = env::var("PATH").unwrap_or_default();
    let variables = parse(&lines, &path);
    // exec looks the program up in our own PATH, where the binaries are not
    let found = variables
        .iter()
        .find(|(key, _)| key == "PATH")
        .and_then(|(_, path)| find_in(path, program));
    let source = Command::new(found.unwrap_or_else(|| program.into()))
        .args(arguments)
        .envs(variables)
        .envs(more.iter().map(|(key, value)| (key, value)))
        .exec();
    Err(ShellError::Command { command: program.to_owned(), source })
}

fn find_in(path: &str, program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return None;
    }
    let folders = env::split_paths(path);
    let mut candidates = folders.map(|folder| folder.join(program));
    candidates.find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_is_read_back() {
        for value in ["", "plain", "it's", "a b'c''d", "$HOME \"x\" \\"] {
            let line = format!("{}:\"$PATH\"", quoted(value));
            let (read, rest) = unquoted(&line).unwrap();
            assert_eq!((read.as_str(), rest), (value, ":\"$PATH\""));
        }
    }

    #[test]
    fn a_shell_reads_the_same() {
        let value = "it's $HOME";
        let script = format!("printf %s {}", quoted(value));
        let output = Command::new("/bin/sh").args(["-c", &script]).output();
        assert_eq!(output.unwrap().stdout, value.as_bytes());
    }

    #[test]
    fn the_path_is_put_before_the_callers() {
        let lines = "export A='1'\nexport PATH='/b':\"$PATH\"\nnonsense\n";
        let wanted = [("A".to_owned(), "1".to_owned()), ("PATH".to_owned(), "/b:/bin".to_owned())];
        assert_eq!(parse(lines, "/bin"), wanted);
    }
}
