//! The few mounts that csi makes: a FUSE superblock per volume, detached at first, then attached
//! read-only at the target, and a private read-write clone of it for swaps.
//!
//! Nothing here asks the server of a mount: no stat, no open of a path below one. A dead server
//! must hang nobody but its readers.

mod attr;
mod binds;
pub mod control;
mod kubelet;
#[cfg(test)]
pub(crate) mod lab;
pub mod mountinfo;
pub mod probe;
mod settings;
#[cfg(test)]
mod tests;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::{
    fs::{Mode, OFlags, open},
    mount::{self as sys, FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags},
};

pub(crate) use kubelet::INSIDE;
pub use kubelet::{Kubelet, Occupant};
pub use settings::{DEFAULT_LABEL, Label, Labelling, SELINUX};

/// What a mount of ours is called in mountinfo: `fuse` with our subtype.
pub const FILESYSTEM: &str = "fuse.vsecm";

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub struct StepError {
    step: &'static str,
    #[source]
    source: io::Error,
}

pub(crate) fn step<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> StepError {
    move |source| StepError { step, source: source.into() }
}

/// A FUSE superblock that nobody sees yet. It dies with its descriptors.
#[derive(Debug)]
pub struct Detached {
    /// `/dev/fuse`, with the kernel's INIT queued.
    pub fuse: OwnedFd,
    /// The read-only mount of it.
    pub mount: OwnedFd,
}

/// Makes a superblock, with a label where the node has `SELinux`. The mount is read-only, the
/// superblock is not: a clone of a mount can be made writable, a superblock cannot.
pub fn superblock(label: Option<&Label>) -> Result<Detached, StepError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let fuse = open("/dev/fuse", flags, Mode::empty()).map_err(step("open /dev/fuse"))?;
    let context = sys::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(step("prepare a FUSE file system (fsopen)"))?;
    settings::apply(fuse.as_fd(), label, |key, value| match value {
        Some(value) => sys::fsconfig_set_string(&context, key, value),
        None => sys::fsconfig_set_flag(&context, key),
    })?;
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
pub fn writable_clone(attached: BorrowedFd<'_>) -> Result<OwnedFd, StepError> {
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
    polled && fuse.revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
}
