//! `mount_setattr(2)`, for which neither rustix nor nix has a wrapper.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::{errno::Errno, libc};

/// Clears the read-only attribute of a mount.
#[expect(unsafe_code, reason = "neither rustix nor nix wraps mount_setattr")]
pub(super) fn clear_read_only(mount: BorrowedFd<'_>) -> io::Result<()> {
    let (attr_set, attr_clr, propagation, userns_fd) = (0, libc::MOUNT_ATTR_RDONLY, 0, 0);
    let change = libc::mount_attr { attr_set, attr_clr, propagation, userns_fd };
    let (fd, size) = (mount.as_raw_fd(), size_of::<libc::mount_attr>());
    // SAFETY: the descriptor is open for the call's length, the path is a C string, and the kernel
    // reads exactly `size` bytes of a struct that lives on this stack.
    let result = unsafe {
        let (call, path, flags) = (libc::SYS_mount_setattr, c"".as_ptr(), libc::AT_EMPTY_PATH);
        libc::syscall(call, fd, path, flags, &raw const change, size)
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}
