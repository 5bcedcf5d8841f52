//! What needs `unsafe` in a session: another file under a descriptor that fuser owns, and a signal
//! for one thread.

use std::{
    io,
    mem::ManuallyDrop,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::{errno::Errno, fcntl::OFlag, libc, sys::signal::Signal, unistd::dup3};

/// From now on `target` means the file of `source`; what it meant before is closed.
///
/// The safe wrappers of `dup3` want to own the target; here fuser owns it and lends it only.
pub(super) fn replace(target: BorrowedFd<'_>, source: &OwnedFd) -> io::Result<()> {
    replace_number(target.as_raw_fd(), source)
}

/// The same for a number that a running session has. Should that session end meanwhile, the number
/// is another's: only for a process that ends.
#[expect(unsafe_code, reason = "the target's owner cannot be named: it is inside fuser")]
pub(super) fn replace_number(target: RawFd, source: &OwnedFd) -> io::Result<()> {
    // SAFETY: `ManuallyDrop` never closes the target, so its owner stays the only one. The kernel
    // puts the new file under the number atomically.
    let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(target) });
    dup3(source, &mut target, OFlag::O_CLOEXEC)?;
    Ok(())
}

/// Sends a signal to one thread of this process.
#[expect(unsafe_code, reason = "neither rustix nor nix wraps tgkill")]
pub(super) fn signal_thread(thread: i32, signal: Signal) -> io::Result<()> {
    let process = nix::unistd::getpid().as_raw();
    // SAFETY: three integers; whether they name anything is the kernel's to say.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal as i32) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}
