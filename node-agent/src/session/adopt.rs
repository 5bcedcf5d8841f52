//! Puts another file under the descriptor of a session that fuser owns.

use std::{
    io,
    mem::ManuallyDrop,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use nix::{fcntl::OFlag, unistd::dup3};

/// From now on `target` means the file of `source`; what it meant before is closed.
///
/// The safe wrappers of `dup3` want to own the target; here fuser owns it and lends it only.
#[expect(unsafe_code, reason = "the target's owner cannot be named: it is inside fuser")]
pub(super) fn replace(target: BorrowedFd<'_>, source: &OwnedFd) -> io::Result<()> {
    // SAFETY: `target` is open while it is borrowed, and `ManuallyDrop` never closes it, so its
    // owner stays the only one. The kernel puts the new file under the number atomically.
    let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(target.as_raw_fd()) });
    dup3(source, &mut target, OFlag::O_CLOEXEC)?;
    Ok(())
}
