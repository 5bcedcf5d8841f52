//! Whether FUSE can be mounted here at all. Where it cannot, that is an error in words: nothing is
//! ever skipped.

use std::{fs::File, io, os::fd::AsRawFd as _};

use nix::unistd::{getegid, geteuid};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

const DEVICE: &str = "/dev/fuse";

/// FUSE cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NoFuse {
    /// The kernel has no FUSE, or the container was not given it.
    #[error(
        "there is no {DEVICE}: load the kernel module (`modprobe fuse`), or give the device to this container (`--device {DEVICE}`)"
    )]
    NoDevice,
    /// It is closed to this user.
    #[error(
        "{DEVICE} is closed to uid {uid}: open it to users (as root: `chmod 666 {DEVICE}`), or run this as root; in a container, add `--device {DEVICE}`"
    )]
    Closed {
        /// Us.
        uid: u32,
    },
    /// It cannot be opened.
    #[error("{DEVICE} cannot be opened")]
    Open(#[source] io::Error),
    /// Mounting is not allowed.
    #[error(
        "FUSE file systems cannot be mounted here, although {DEVICE} is open: run this as root, in a container with `--privileged`, or inside a user namespace (`unshare -Urm COMMAND`)"
    )]
    Mount(#[source] io::Error),
}

/// Opens the device and makes a FUSE mount that is attached nowhere and gone again on return.
///
/// # Errors
/// [`NoFuse`], whose sentence says what to do.
pub fn require_fuse() -> Result<(), NoFuse> {
    let device = open_device()?;
    let mount = || {
        let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in [
            ("source", "vsecm".to_owned()),
            ("fd", device.as_raw_fd().to_string()),
            ("rootmode", "40000".to_owned()),
            ("user_id", geteuid().to_string()),
            ("group_id", getegid().to_string()),
        ] {
            fsconfig_set_string(&context, key, &value)?;
        }
        fsconfig_create(&context)?;
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        fsmount(&context, flags, MountAttrFlags::MOUNT_ATTR_NOSUID)?;
        Ok(())
    };
    mount().map_err(|error: rustix::io::Errno| NoFuse::Mount(error.into()))
}

/// Opens the device.
pub(crate) fn open_device() -> Result<File, NoFuse> {
    let device = File::options().read(true).write(true).open(DEVICE);
    device.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => NoFuse::NoDevice,
        io::ErrorKind::PermissionDenied => NoFuse::Closed { uid: geteuid().as_raw() },
        _ => NoFuse::Open(error),
    })
}
