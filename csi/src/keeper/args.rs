//! The words and flags of `vsecm-keeper`. Parsed by hand: a parser made for more would weigh as much
//! as the keeper itself, which stays in memory on every node.

use std::{collections::BTreeMap, path::PathBuf, str::FromStr};

use vsecm_node_agent_api::peer::{ParsePeerRuleError, PeerRule};

/// What `--help` says.
pub const HELP: &str = "\
Keeper of descriptors of the secret manager

Usage: vsecm-keeper --socket PATH --csi-peer RULE --node-agent-peer RULE
       vsecm-keeper prepare FOLDER --owner UID:GID
       vsecm-keeper probe --socket PATH

      --socket PATH           Socket to listen on [env: VSECM_KEEPER_SOCKET]
      --csi-peer RULE         Who csi is: uid:NUMBER or exe:NAME [env: VSECM_CSI_PEER]
      --node-agent-peer RULE  Who node-agent is: uid:NUMBER or exe:NAME [env: VSECM_NODE_AGENT_PEER]
      --owner UID:GID         Who owns the folder, which others may only pass
      --help, --version
";

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Print this.
    Say(String),
    /// Keep.
    Serve(Args),
    /// Make the folder for the socket.
    Prepare {
        /// Its absolute path.
        folder: PathBuf,
        /// Whose it is.
        owner: Owner,
    },
    /// Ask a running keeper for a sign of life.
    Probe {
        /// Its socket.
        socket: PathBuf,
    },
}

/// How the keeper serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Args {
    /// Socket to listen on.
    pub socket: PathBuf,
    /// Who csi is.
    pub csi_peer: PeerRule,
    /// Who node-agent is.
    pub node_agent_peer: PeerRule,
}

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

/// Why the command line is not understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum UsageError {
    /// A word that means nothing.
    #[error("{0:?} is not understood: see --help")]
    Word(String),
    /// A flag without its value.
    #[error("--{0} needs a value")]
    NoValue(String),
    /// A flag that must be given.
    #[error("--{0} is missing, and so is the variable {1}")]
    Missing(&'static str, &'static str),
    /// An owner that is none.
    #[error("an owner is given as UID:GID in numbers, not {0:?}")]
    Owner(String),
    /// A peer that is none.
    #[error(transparent)]
    Peer(#[from] ParsePeerRuleError),
}

impl FromStr for Owner {
    type Err = UsageError;

    fn from_str(text: &str) -> Result<Self, UsageError> {
        let numbers = text
            .split_once(':')
            .and_then(|(uid, gid)| Some(Self { uid: uid.parse().ok()?, gid: gid.parse().ok()? }));
        numbers.ok_or_else(|| UsageError::Owner(text.to_owned()))
    }
}

impl Command {
    /// Parses the words behind the program's name.
    pub fn parse(
        words: impl IntoIterator<Item = String>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, UsageError> {
        let (mut places, mut flags) = (Vec::new(), BTreeMap::new());
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            match word.strip_prefix("--") {
                Some("help") => return Ok(Self::Say(HELP.to_owned())),
                Some("version") => {
                    return Ok(Self::Say(
                        concat!("vsecm-keeper ", env!("CARGO_PKG_VERSION"), "\n").to_owned(),
                    ));
                }
                Some(flag) => {
                    let (flag, value) = match flag.split_once('=') {
                        Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
                        None => (flag.to_owned(), words.next()),
                    };
                    let value = value.ok_or_else(|| UsageError::NoValue(flag.clone()))?;
                    flags.insert(flag, value);
                }
                None => places.push(word),
            }
        }
        let mut take = |flag, variable| {
            let value = flags.remove(flag).or_else(|| env(variable));
            value.ok_or(UsageError::Missing(flag, variable))
        };
        let places: Vec<&str> = places.iter().map(String::as_str).collect();
        let command = match places.as_slice() {
            [] => Self::Serve(Args {
                socket: take("socket", "VSECM_KEEPER_SOCKET")?.into(),
                csi_peer: take("csi-peer", "VSECM_CSI_PEER")?.parse()?,
                node_agent_peer: take("node-agent-peer", "VSECM_NODE_AGENT_PEER")?.parse()?,
            }),
            ["prepare", folder] => {
                let owner = take("owner", "VSECM_KEEPER_OWNER")?.parse()?;
                Self::Prepare { folder: folder.into(), owner }
            }
            ["probe"] => Self::Probe { socket: take("socket", "VSECM_KEEPER_SOCKET")?.into() },
            ["prepare" | "probe", .., word] | [word, ..] => {
                return Err(UsageError::Word((*word).to_owned()));
            }
        };
        match flags.into_keys().next() {
            Some(flag) => Err(UsageError::Word(format!("--{flag}"))),
            None => Ok(command),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, UsageError> {
        let words = line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned);
        Command::parse(words, |variable| {
            (variable == "VSECM_NODE_AGENT_PEER").then(|| "uid:3".to_owned())
        })
    }

    #[test]
    fn the_keeper_is_told_by_flags_and_variables() {
        let (csi_peer, node_agent_peer) = (PeerRule::Uid(0), PeerRule::Uid(3));
        let args = Args { socket: "/s".into(), csi_peer, node_agent_peer };
        assert_eq!(parse("--socket /s --csi-peer=uid:0"), Ok(Command::Serve(args)));
        assert_eq!(parse("probe --socket=/s"), Ok(Command::Probe { socket: "/s".into() }));
        let owner = Owner { uid: 1, gid: 2 };
        let prepare = Command::Prepare { folder: "/f".into(), owner };
        assert_eq!(parse("prepare /f --owner 1:2").as_ref(), Ok(&prepare));
        assert_eq!(parse("--owner 1:2 prepare /f").as_ref(), Ok(&prepare));
        assert!(matches!(parse("--version"), Ok(Command::Say(text)) if text.ends_with(".0\n")));
        assert_eq!(parse("prepare --help"), Ok(Command::Say(HELP.to_owned())));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (line, said) in [
            ("", "--socket is missing, and so is the variable VSECM_KEEPER_SOCKET"),
            ("--socket", "--socket needs a value"),
            ("--socket /s --csi-peer 0", "a peer is given as uid:NUMBER or exe:NAME, not \"0\""),
            ("probe --socket /s --owner 1:2", "\"--owner\" is not understood: see --help"),
            ("prepare --owner 1:2", "\"prepare\" is not understood: see --help"),
            ("prepare /f /g --owner 1:2", "\"/g\" is not understood: see --help"),
            ("prepare /f --owner root", "an owner is given as UID:GID in numbers, not \"root\""),
            ("serve", "\"serve\" is not understood: see --help"),
        ] {
            assert_eq!(parse(line).unwrap_err().to_string(), said, "{line}");
        }
    }
}
