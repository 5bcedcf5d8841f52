//! The kubelet's folder, and the targets below it.

use std::{
    fs,
    io::ErrorKind,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2, statat, unlinkat},
    io::Errno,
    mount::{MoveMountFlags, UnmountFlags, move_mount, unmount},
    path::Arg,
};
use vsecm_node_agent_api::{
    target::{LEAF, Target},
    volume::PodUid,
};

use super::{
    FILESYSTEM, StepError,
    control::Connection,
    mountinfo::{self, Mount},
    step, writable_clone,
};

/// What is mounted at a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occupant {
    /// Nothing.
    Free,
    /// A mount of our type.
    Ours,
    /// Another mount, of this type.
    Foreign(String),
}

/// The kubelet's folder, opened once: all targets are resolved below this descriptor, without
/// following a symlink.
#[derive(Debug)]
pub struct Kubelet {
    pub(super) folder: OwnedFd,
    /// As mountinfo names it.
    pub(super) path: PathBuf,
}

fn folder(at: impl AsFd, path: impl Arg, resolve: ResolveFlags) -> Result<OwnedFd, StepError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(at, path, flags, Mode::empty(), resolve).map_err(step("open the target's folders"))
}

/// Resolution that stays below a folder and follows nothing, whatever others put there.
pub(crate) const INSIDE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

impl Kubelet {
    /// Opens the folder.
    pub fn open(path: &Path) -> Result<Self, StepError> {
        let path = fs::canonicalize(path).map_err(step("find the kubelet's folder"))?;
        Ok(Self { folder: folder(CWD, &path, ResolveFlags::NO_SYMLINKS)?, path })
    }

    /// Looks at a target without asking any server.
    pub fn occupant(&self, target: &Target) -> Result<Occupant, StepError> {
        Ok(match self.seen(target)? {
            None => Occupant::Free,
            Some(mount) if mount.kind == FILESYSTEM => Occupant::Ours,
            Some(mount) => Occupant::Foreign(mount.kind),
        })
    }

    fn seen(&self, target: &Target) -> Result<Option<Mount>, StepError> {
        // the thread's: a process has one mount namespace, but each mount test has its own
        let text = fs::read("/proc/thread-self/mountinfo").map_err(step("read mountinfo"))?;
        Ok(mountinfo::topmost(&text, &self.path.join(target.to_string())))
    }

    /// Whether something stands in the way to the target. A folder that is not there does not: the
    /// kubelet makes it before it asks, and what is missing then is said when the mount is attached.
    pub fn reach(&self, target: &Target) -> Result<(), StepError> {
        match self.parent(target) {
            Err(error) if error.source.kind() == ErrorKind::NotFound => Ok(()),
            opened => opened.map(drop),
        }
    }

    /// Whether the kubelet still has a folder for the pod. Where that is not certain, it has.
    pub fn has_pod(&self, pod: &PodUid) -> bool {
        let path = format!("pods/{pod}");
        !matches!(
            statat(&self.folder, path, AtFlags::SYMLINK_NOFOLLOW),
            Err(Errno::NOENT | Errno::NOTDIR)
        )
    }

    /// Attaches a detached mount at a free target, making its last folder where that is missing;
    /// returns the private read-write clone.
    pub fn attach(&self, target: &Target, mount: BorrowedFd<'_>) -> Result<OwnedFd, StepError> {
        let parent = self.parent(target)?;
        match mkdirat(&parent, LEAF, Mode::from_raw_mode(0o750)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(step("make the target folder")(e)),
        }
        // not across a mount: what has come there since the caller looked is refused (EXDEV)
        let leaf = folder(&parent, LEAF, INSIDE | ResolveFlags::NO_XDEV)?;
        let by_descriptor =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(mount, "", &leaf, "", by_descriptor)
            .map_err(step("attach the mount to the target (move_mount)"))?;
        writable_clone(mount)
    }

    /// The private read-write clone of the mount at the target, for a csi that has lost it. Never
    /// of anything else: without a mount there, that would be a piece of the host's own files.
    pub fn writable(&self, target: &Target) -> Result<OwnedFd, StepError> {
        if self.occupant(target)? != Occupant::Ours {
            return Err(step("find the mount at the target")(Errno::NOENT));
        }
        writable_clone(folder(self.parent(target)?, LEAF, INSIDE)?.as_fd())
    }

    /// Takes away what is ours at the target, and its folder. What is not there is no error. The
    /// connections of what was mounted: another mount namespace may have a copy.
    pub fn clear(&self, target: &Target) -> Result<Vec<Connection>, StepError> {
        let mut connections = Vec::new();
        let parent = match self.parent(target) {
            Err(error) if error.source.kind() == ErrorKind::NotFound => return Ok(connections),
            opened => opened?,
        };
        while let Some(mount) = self.seen(target)?.filter(|mount| mount.kind == FILESYSTEM) {
            // a path walk that ends at a mount does not ask its server
            let pin = folder(&parent, LEAF, INSIDE).ok();
            let pin = pin.filter(|pin| mount_id(pin).is_some_and(|id| id == mount.id));
            connections.extend(pin.and_then(|pin| Connection::of(&mount, pin)));
            // umount2 takes no descriptor; no part of this path can be a symlink of others
            let path = format!("/proc/thread-self/fd/{}/{LEAF}", parent.as_raw_fd());
            let unmounted = unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
            unmounted.map_err(step("unmount the target"))?;
        }
        match unlinkat(&parent, LEAF, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => tracing::warn!(%target, %error, "the target folder is not ours to empty"),
        }
        Ok(connections)
    }

    fn parent(&self, target: &Target) -> Result<OwnedFd, StepError> {
        folder(&self.folder, target.folder(), INSIDE)
    }
}

/// The mount that a descriptor leads to, by its id in mountinfo.
fn mount_id(descriptor: &OwnedFd) -> Option<u64> {
    let path = format!("/proc/thread-self/fdinfo/{}", descriptor.as_raw_fd());
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}
