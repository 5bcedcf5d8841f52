//! Who is at the other end of a socket, and whether it may be there.

use std::{fs, io, os::fd::AsFd, str::FromStr};

use nix::sys::socket::{getsockopt, sockopt};

/// The process at the other end, as the kernel names it (`SO_PEERCRED`): for an accepted
/// connection the one that dialled, for a dialled one the one that called `listen`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Process id in our pid namespace; 0 if it is not visible there.
    pub pid: i32,
    /// User id in our user namespace.
    pub uid: u32,
}

impl Peer {
    /// Asks the kernel who is at the other end.
    pub fn of(socket: impl AsFd) -> io::Result<Self> {
        // not rustix: its pid cannot be 0, and a peer in another pid namespace reads as an error there
        let credentials = getsockopt(&socket, sockopt::PeerCredentials)?;
        Ok(Self { pid: credentials.pid(), uid: credentials.uid() })
    }
}

/// Which peer is expected.
///
/// `uid:N` is the rule: every component has a uid of its own ([I9]). `exe:NAME` is for a user
/// namespace that has a single id: the name of the executable, as the kernel recorded it at exec
/// (15 bytes of it), of a process of our own uid. It keeps components apart by mistake, not by
/// force, and is for development only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerRule {
    /// The peer's uid.
    Uid(u32),
    /// The peer's executable.
    Executable(String),
}

/// Bytes of an executable's name that the kernel records (`TASK_COMM_LEN` without its NUL).
const COMM: usize = 15;

impl PeerRule {
    /// Whether the peer is the expected one.
    pub fn admits(&self, peer: Peer) -> bool {
        match self {
            Self::Uid(uid) => peer.uid == *uid,
            Self::Executable(name) => {
                peer.uid == rustix::process::geteuid().as_raw()
                    && fs::read_to_string(format!("/proc/{}/comm", peer.pid))
                        .is_ok_and(|comm| comm.trim_end() == shortened(name))
            }
        }
    }
}

fn shortened(name: &str) -> &str {
    name.get(..COMM).unwrap_or(name)
}

/// The text is neither `uid:N` nor `exe:NAME`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a peer is given as uid:NUMBER or exe:NAME, not {0:?}")]
pub struct ParsePeerRuleError(String);

impl FromStr for PeerRule {
    type Err = ParsePeerRuleError;

    fn from_str(text: &str) -> Result<Self, ParsePeerRuleError> {
        let rule = match text.split_once(':') {
            Some(("uid", uid)) => uid.parse().ok().map(Self::Uid),
            Some(("exe", name)) if !name.is_empty() && name.is_ascii() => {
                Some(Self::Executable(name.to_owned()))
            }
            _ => None,
        };
        rule.ok_or_else(|| ParsePeerRuleError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Peer {
        Peer {
            pid: i32::try_from(std::process::id()).unwrap(),
            uid: rustix::process::geteuid().as_raw(),
        }
    }

    #[test]
    fn a_peer_is_told_by_its_uid() {
        assert!(PeerRule::Uid(own().uid).admits(own()));
        assert!(!PeerRule::Uid(own().uid + 1).admits(own()));
    }

    #[test]
    fn a_peer_is_told_by_its_executable() {
        let comm = fs::read_to_string("/proc/self/comm").unwrap();
        assert!(PeerRule::Executable(comm.trim_end().to_owned()).admits(own()));
        assert!(!PeerRule::Executable("vsecm-other".to_owned()).admits(own()));
    }

    #[test]
    fn rules_are_parsed_or_refused_in_words() {
        assert_eq!("uid:5".parse(), Ok(PeerRule::Uid(5)));
        assert_eq!("exe:a".parse(), Ok(PeerRule::Executable("a".into())));
        for bad in ["", "5", "uid:", "uid:-1", "exe:", "gid:5"] {
            assert!(bad.parse::<PeerRule>().is_err(), "{bad:?} must be refused");
        }
    }
}
