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
    mount::{self as sys, FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags},
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

const STRINGS: [(&str, &str); 6] = [
    ("source", "vsecm"),
    ("subtype", "vsecm"),
    ("rootmode", "40000"),
    ("user_id", "0"),
    ("group_id", "0"),
    // eight requests per MiB instead of 256
    ("max_read", "131072"),
];

/// Makes a superblock. The mount is read-only, the superblock is not: a clone of a mount can be
/// made writable, a superblock cannot.
pub fn superblock() -> Result<Detached, MountError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let fuse = open("/dev/fuse", flags, Mode::empty()).map_err(step("open /dev/fuse"))?;
    let context = sys::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(step("prepare a FUSE file system (fsopen)"))?;
    let number = fuse.as_raw_fd().to_string();
    for (key, value) in STRINGS.into_iter().chain([("fd", number.as_str())]) {
        sys::fsconfig_set_string(&context, key, value).map_err(step("set a mount option"))?;
    }
    for key in ["default_permissions", "allow_other"] {
        sys::fsconfig_set_flag(&context, key).map_err(step("set a mount option"))?;
    }
    sys::fsconfig_create(&context).map_err(step("make the FUSE superblock (fsconfig)"))?;
    let restricted = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = sys::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, restricted)
        .map_err(step("make the mount (fsmount)"))?;
    Ok(Detached { fuse, mount })
}

/// The private read-write clone of an *attached* mount, itself attached nowhere. Linux before 6.15
/// refuses to clone a detached one.
pub fn writable_clone(attached: BorrowedFd<'_>) -> Result<OwnedFd, MountError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let clone = sys::open_tree(attached, "", flags).map_err(step("clone the mount (open_tree)"))?;
    attr::clear_read_only(clone.as_fd()).map_err(step("make it writable (mount_setattr)"))?;
    Ok(clone)
}

/// Whether the superblock behind a `/dev/fuse` descriptor is gone: it cannot be served any more.
pub fn is_dead(fuse: BorrowedFd<'_>) -> bool {
    let mut asked = [PollFd::new(fuse, PollFlags::empty())];
    let polled = poll(&mut asked, PollTimeout::ZERO).is_ok();
    let [fuse] = asked;
    polled
        && fuse
            .revents()
            .is_some_and(|events| events.contains(PollFlags::POLLERR))
}
