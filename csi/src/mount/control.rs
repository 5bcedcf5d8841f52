//! The kernel's control of FUSE connections, `fusectl`: mounted by csi for itself, detached, so
//! that it is seen nowhere and needs no folder.
//!
//! A mount namespace that copied a volume before it was taken down keeps its superblock, and with
//! it a thread of node-agent that waits for requests. Only an abort of the connection ends it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{AtFlags, Mode, OFlags, StatxFlags, openat2, statx},
    io::{Errno, read, write},
    mount::{self as sys, FsMountFlags, FsOpenFlags, MountAttrFlags},
};

use super::{INSIDE, StepError, mountinfo::Mount, step};

/// Names a connection, and keeps the name from being given to another: the kernel does so only
/// once the last mount of the file system is gone.
#[derive(Debug)]
pub struct Connection {
    minor: u32,
    _pin: OwnedFd,
}

impl PartialEq for Connection {
    fn eq(&self, other: &Self) -> bool {
        self.minor == other.minor
    }
}

impl Connection {
    /// The connection of an attached mount, as mountinfo tells it. `pin` is a descriptor of it.
    pub(super) fn of(mount: &Mount, pin: OwnedFd) -> Option<Self> {
        // file systems without a block device, as all of ours, have major 0
        let (0, minor) = mount.device else { return None };
        Some(Self { minor, _pin: pin })
    }

    /// The connection of a mount that is attached nowhere and so in no mountinfo. No server is
    /// asked: nothing but the device number is wanted, and that without synchronisation.
    pub(crate) fn of_detached(mount: BorrowedFd<'_>) -> Result<Option<Self>, StepError> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let known = statx(mount, "", flags, StatxFlags::empty());
        let known = known.map_err(step("learn the device of a detached mount (statx)"))?;
        let pin = mount.try_clone_to_owned().map_err(step("keep a detached mount"))?;
        let minor = (known.stx_dev_major == 0).then_some(known.stx_dev_minor);
        Ok(minor.map(|minor| Self { minor, _pin: pin }))
    }
}

/// The control file system.
#[derive(Debug)]
pub struct Control(OwnedFd);

impl Control {
    /// Mounts it. Not possible in a user namespace.
    pub fn mount() -> Result<Self, StepError> {
        let context = sys::fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(step("prepare fusectl (fsopen)"))?;
        sys::fsconfig_create(&context).map_err(step("find fusectl (fsconfig)"))?;
        let restricted = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let mount = sys::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, restricted);
        Ok(Self(mount.map_err(step("mount fusectl (fsmount)"))?))
    }

    /// Ends a connection: whoever waits for it, reader or server, gets an error at once. One that
    /// has ended already is no error.
    pub fn abort(&self, connection: &Connection) -> Result<(), StepError> {
        let Some(file) = self.open(connection, "abort", OFlags::WRONLY)? else { return Ok(()) };
        write(&file, b"1").map(drop).map_err(step("abort the FUSE connection"))
    }

    /// How many requests wait for an answer; nothing of a connection that has ended.
    pub fn waiting(&self, connection: &Connection) -> Result<Option<u64>, StepError> {
        let Some(file) = self.open(connection, "waiting", OFlags::RDONLY)? else { return Ok(None) };
        let mut text = [0; 32];
        let length = read(&file, &mut text).map_err(step("read a file of fusectl"))?;
        let number = text.get(..length).and_then(|text| std::str::from_utf8(text).ok());
        Ok(number.and_then(|number| number.trim_end().parse().ok()))
    }

    fn open(
        &self,
        connection: &Connection,
        file: &str,
        flags: OFlags,
    ) -> Result<Option<OwnedFd>, StepError> {
        let path = format!("{}/{file}", connection.minor);
        match openat2(self.0.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), INSIDE) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(step("open a file of fusectl")(error)),
        }
    }
}
