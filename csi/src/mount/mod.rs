//! The few mounts that csi makes: a FUSE superblock per volume, detached at first, then attached
//! read-only at the target, and a private read-write clone of it for swaps.
//!
//! Nothing here asks the server of a mount: no stat, no open of a path below one. A dead server
//! must hang nobody but its readers.

mod attr;
mod kubelet;
pub mod mountinfo;

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::{
    fs::{Mode, OFlags, open},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, open_tree,
    },
};

pub use kubelet::{Kubelet, Occupant};

/// What a mount of ours is called in mountinfo: `fuse` with our subtype.
pub const FILESYSTEM: &str = "fuse.vsecm";

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub struct MountError {
    step: &'static str,
    #[source]
    source: io::Error,
}

/// `map_err` with the step in words.
fn step<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> MountError {
    move |source| MountError {
        step,
        source: source.into(),
    }
}

/// A FUSE superblock that nobody sees yet. It dies with its descriptors.
#[derive(Debug)]
pub struct Detached {
    /// `/dev/fuse`, with the kernel's INIT queued.
    pub fuse: OwnedFd,
    /// The read-only mount of it.
    pub mount: OwnedFd,
}

/// Makes a superblock. The mount is read-only, the superblock is not: a clone of the mount can be
/// made writable, a superblock cannot.
pub fn superblock() -> Result<Detached, MountError> {
    let fuse = open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(step("open /dev/fuse"))?;
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(step("prepare a FUSE file system (fsopen)"))?;
    let fuse_number = fuse.as_raw_fd().to_string();
    for (key, value) in [
        ("source", "vsecm"),
        ("subtype", "vsecm"),
        ("fd", fuse_number.as_str()),
        ("rootmode", "40000"),
        ("user_id", "0"),
        ("group_id", "0"),
        // eight requests per MiB instead of 256
        ("max_read", "131072"),
    ] {
        fsconfig_set_string(&context, key, value).map_err(step("set an option (fsconfig)"))?;
    }
    for key in ["default_permissions", "allow_other"] {
        fsconfig_set_flag(&context, key).map_err(step("set an option (fsconfig)"))?;
    }
    fsconfig_create(&context).map_err(step("make the FUSE superblock (fsconfig)"))?;
    let restricted = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, restricted)
        .map_err(step("make the mount (fsmount)"))?;
    Ok(Detached { fuse, mount })
}

/// The private read-write clone of an *attached* mount, which stays attached nowhere. Linux before
/// 6.15 refuses to clone a detached one.
pub fn writable_clone(attached: BorrowedFd<'_>) -> Result<OwnedFd, MountError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let clone = open_tree(attached, "", flags).map_err(step("clone the mount (open_tree)"))?;
    attr::clear_read_only(clone.as_fd())
        .map_err(step("make the clone writable (mount_setattr)"))?;
    Ok(clone)
}

/// Whether the superblock behind a `/dev/fuse` descriptor is gone (aborted, or never to be
/// reached again): such a descriptor cannot be served any more.
pub fn is_dead(fuse: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fuse, PollFlags::empty())];
    let polled = poll(&mut fds, PollTimeout::ZERO);
    polled.is_ok()
        && fds
            .iter()
            .filter_map(PollFd::revents)
            .any(|r| r.contains(PollFlags::POLLERR))
}
