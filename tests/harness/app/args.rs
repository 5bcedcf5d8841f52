//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::shell::FOLDER_VARIABLE;

/// The whole system on this machine, without Kubernetes: development identities, real processes,
/// real mutual TLS, real FUSE mounts.
#[derive(Debug, Parser)]
#[command(name = "vsecm-playground", version)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Action,
}

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Start everything in DIR and stay until SIGTERM or Ctrl-C.
    Up(Up),
    /// Pods of a running playground.
    #[command(subcommand)]
    Pod(Pod),
    /// Enter a running playground: a shell, or CMD.
    Shell(Shell),
    /// Tell the whole story and verify each step.
    Demo,
}

#[derive(Debug, Args)]
pub(super) struct Up {
    /// Made if it is not there.
    pub(super) dir: PathBuf,
    /// Seconds for which csi holds a publish call whose secret is missing (110 in a cluster).
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=110))]
    pub(super) hold: u64,
    /// Seconds that an SVID lasts; it is renewed at half of them.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(2..))]
    pub(super) svid_lifetime: u64,
}

#[derive(Debug, Args)]
pub(super) struct Shell {
    /// The playground's folder.
    pub(super) dir: PathBuf,
    /// The command; the user's shell if none is given.
    #[arg(last = true)]
    pub(super) command: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Pod {
    /// Register a pod's identity and publish its volume; prints the volume's path.
    Create(Create),
    /// Withdraw a pod's identity and unpublish its volume.
    Delete(Named),
    /// All pods.
    List {
        #[command(flatten)]
        folder: Folder,
    },
    /// Run CMD as a pod: with its Workload API in `SPIFFE_ENDPOINT_SOCKET` and its volume's path in
    /// `VSECM_VOLUME`.
    Exec {
        #[command(flatten)]
        pod: Named,
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(super) struct Folder {
    /// The playground's folder.
    #[arg(long, env = FOLDER_VARIABLE)]
    pub(super) dir: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// The pod's name.
    pub(super) pod: String,
    /// Its namespace.
    #[arg(short, long, default_value = "default")]
    pub(super) namespace: String,
    #[command(flatten)]
    pub(super) folder: Folder,
}

#[derive(Debug, Args)]
pub(super) struct Create {
    #[command(flatten)]
    pub(super) pod: Named,
    /// The workload it belongs to; its own name if none is given.
    #[arg(short, long)]
    pub(super) workload: Option<String>,
    /// Its service account.
    #[arg(long, default_value = "default")]
    pub(super) service_account: String,
    /// A volume attribute.
    #[arg(long = "attribute", value_name = "K=V", value_parser = key_value)]
    pub(super) attributes: Vec<(String, String)>,
    /// Its fsGroup.
    #[arg(long)]
    pub(super) fs_group: Option<u32>,
    /// Return before the volume is there.
    #[arg(long)]
    pub(super) no_wait: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("an attribute is KEY=VALUE, not {text:?}"))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_commands_own_flags_are_left_to_it() {
        let words = ["vsecm-playground", "pod", "exec", "--dir", "/p", "web", "--", "ls", "-l"];
        let parsed = Arguments::try_parse_from(words).unwrap();
        let Action::Pod(Pod::Exec { pod, command }) = parsed.command else {
            panic!("not exec");
        };
        assert_eq!((pod.pod.as_str(), pod.namespace.as_str()), ("web", "default"));
        assert_eq!(command, ["ls", "-l"]);
    }
}
