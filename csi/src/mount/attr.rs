//! `mount_setattr(2)`, for which neither rustix nor nix has a wrapper.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::libc;

/// Clears the read-only attribute of a mount.
#[expect(unsafe_code, reason = "neither rustix nor nix wraps mount_setattr")]
pub(super) fn clear_read_only(mount: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: 0,
        attr_clr: libc::MOUNT_ATTR_RDONLY,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the descriptor is open for the call's length, the path is a C string, and the kernel
    // reads exactly `size_of` bytes of a struct that lives on this stack.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
