//! Gives up what the process does not need: its user, all capabilities, and the way back ([I9]).

use std::str::FromStr;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::{
    io::Errno,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, no_new_privs,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
    },
};

/// Why privileges could not be given up, or are there though they must not be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivilegeError {
    /// The user could not be changed.
    #[error("cannot become user {user}")]
    User {
        /// The user.
        user: RunAs,
        /// What the kernel said.
        #[source]
        source: nix::Error,
    },
    /// A capability could not be dropped.
    #[error("cannot drop all capabilities")]
    Capabilities(#[source] Errno),
    /// Something is left.
    #[error(
        "this process still has privileges (capabilities {left:#x}, no_new_privs {sealed}); \
         start it by `supervise`, which drops them"
    )]
    Left {
        /// Permitted, effective and inheritable capabilities.
        left: u64,
        /// Whether `no_new_privs` is set.
        sealed: bool,
    },
}

/// The user and group to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunAs {
    uid: u32,
    gid: u32,
}

impl std::fmt::Display for RunAs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

/// The text is not `UID:GID`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a user is given as UID:GID, two numbers, not {0:?}")]
pub struct ParseRunAsError(String);

impl FromStr for RunAs {
    type Err = ParseRunAsError;

    fn from_str(text: &str) -> Result<Self, ParseRunAsError> {
        let (uid, gid) = text.split_once(':').ok_or_else(|| ParseRunAsError(text.to_owned()))?;
        let number = |text: &str| text.parse().map_err(|_number| ParseRunAsError(text.to_owned()));
        Ok(Self { uid: number(uid)?, gid: number(gid)? })
    }
}

/// Becomes `user`, drops all capabilities from all sets, and closes the way back.
///
/// # Errors
/// [`PrivilegeError`]; the process must end then.
pub fn give_up(user: Option<RunAs>) -> Result<(), PrivilegeError> {
    // while it may still be done: it needs CAP_SETPCAP
    clear_bounding_set()?;
    if let Some(user) = user {
        become_user(user).map_err(|source| PrivilegeError::User { user, source })?;
    }
    clear_ambient_capability_set().map_err(PrivilegeError::Capabilities)?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).map_err(PrivilegeError::Capabilities)?;
    set_no_new_privs(true).map_err(PrivilegeError::Capabilities)?;
    check()
}

/// Makes sure that nothing is left. A uid 0 without capabilities passes: so it is in a user
/// namespace with a single id.
///
/// # Errors
/// [`PrivilegeError::Left`].
pub fn check() -> Result<(), PrivilegeError> {
    let sets = capabilities(None).map_err(PrivilegeError::Capabilities)?;
    let left = sets.effective | sets.permitted | sets.inheritable;
    let sealed = no_new_privs().map_err(PrivilegeError::Capabilities)?;
    if !left.is_empty() || !sealed {
        return Err(PrivilegeError::Left { left: left.bits(), sealed });
    }
    Ok(())
}

fn clear_bounding_set() -> Result<(), PrivilegeError> {
    for bit in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)) {
            Ok(()) => {}
            // past the last capability that this kernel knows; or without CAP_SETPCAP: then the
            // set stays, and with no_new_privs nothing can be gained from it
            Err(Errno::INVAL | Errno::PERM) => break,
            Err(e) => return Err(PrivilegeError::Capabilities(e)),
        }
    }
    Ok(())
}

fn become_user(user: RunAs) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_two_numbers() {
        assert_eq!("5:6".parse(), Ok(RunAs { uid: 5, gid: 6 }));
        for bad in ["", "5", "5:", ":6", "a:b", "-1:0", "5:6:7"] {
            assert!(bad.parse::<RunAs>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn a_thread_that_gave_up_its_privileges_has_none_left() {
        // capabilities belong to the thread, so the test's own thread loses nothing
        std::thread::spawn(|| {
            give_up(None).unwrap();
            assert!(capabilities(None).unwrap().permitted.is_empty());
            assert!(no_new_privs().unwrap());
        })
        .join()
        .unwrap();
    }
}
