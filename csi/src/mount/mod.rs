//! The few mounts that csi makes: a FUSE superblock per volume, detached at first, then attached
//! read-only at the target, and a private read-write clone of it for swaps.
//!
//! Nothing here asks the server of a mount: no stat, no open of a path below one. A dead server
//! must hang nobody but its readers.

mod attr;
mod binds;
mod kubelet;
#[cfg(test)]
pub(crate) mod lab;
pub mod mountinfo;
pub mod probe;

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::{
    fs::{Mode, OFlags, open},
    mount::{self as sys, FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags},
};

pub(crate) use kubelet::INSIDE;
pub use kubelet::{Kubelet, Occupant};

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
pub fn superblock() -> Result<Detached, StepError> {
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

#[cfg(test)]
mod tests {
    use std::{fs, io::ErrorKind, path::Path};

    use vsecm_node_agent_api::target::Target;

    use super::{
        lab::{Node, Server, TARGET, in_private_namespace},
        *,
    };

    fn mk_kubelet(dir: &Path) -> (Kubelet, Target) {
        (Kubelet::open(dir).unwrap(), TARGET.parse().unwrap())
    }

    fn mk_mount(kubelet: &Kubelet, target: &Target) -> (Server, OwnedFd) {
        let Detached { fuse, mount } = superblock().unwrap();
        let server = Server::start(fuse);
        let writable = kubelet.attach(target, mount.as_fd()).unwrap();
        (server, writable)
    }

    #[test]
    fn a_volume_is_read_only_at_its_target_and_writable_on_the_private_clone() {
        in_private_namespace(|dir| {
            let (kubelet, target) = mk_kubelet(dir);
            assert_eq!(kubelet.occupant(&target).unwrap(), Occupant::Free);
            let (server, writable) = mk_mount(&kubelet, &target);
            assert_eq!(kubelet.occupant(&target).unwrap(), Occupant::Ours);
            server.add("key", Node::File);
            let path = dir.join(TARGET);
            assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
            let refused = std::os::unix::fs::symlink("x", path.join("y")).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
            rustix::fs::symlinkat("x", &writable, "y").unwrap();
            assert_eq!(server.mutations(), [(lab::SYMLINK, "y".to_owned())]);

            let again = kubelet.writable(&target).unwrap();
            rustix::fs::symlinkat("x", &again, "z").unwrap();
            assert_eq!(fs::read_link(path.join("z")).unwrap(), Path::new("x"));
        });
    }

    #[test]
    fn the_folder_of_the_pods_alone_may_come_from_the_node() {
        in_private_namespace(|dir| {
            let (pods, elsewhere) = (dir.join("pods"), dir.join("nodes"));
            fs::rename(&pods, &elsewhere).unwrap();
            fs::create_dir(&pods).unwrap();
            sys::mount_bind(&elsewhere, &pods).unwrap();
            sys::mount_change(&pods, sys::MountPropagationFlags::SHARED).unwrap();
            let (kubelet, target) = mk_kubelet(dir);
            let (_server, writable) = mk_mount(&kubelet, &target);
            assert_eq!(kubelet.occupant(&target).unwrap(), Occupant::Ours);
            rustix::fs::symlinkat("x", &writable, "y").unwrap();
            kubelet.writable(&target).unwrap();
            kubelet.clear(&target).unwrap();
            assert_eq!(kubelet.occupant(&target).unwrap(), Occupant::Free);
            assert!(!dir.join(TARGET).exists());
        });
    }

    #[test]
    fn a_target_is_cleared_twice_and_with_a_dead_server() {
        in_private_namespace(|dir| {
            let (kubelet, target) = mk_kubelet(dir);
            kubelet.clear(&target).unwrap();
            for _round in 0..2 {
                let Detached { fuse, mount } = superblock().unwrap();
                kubelet.attach(&target, mount.as_fd()).unwrap();
                drop(fuse);
                kubelet.clear(&target).unwrap();
                kubelet.clear(&target).unwrap();
                assert_eq!(kubelet.occupant(&target).unwrap(), Occupant::Free);
                assert!(!dir.join(TARGET).exists());
            }
            fs::remove_dir_all(dir.join("pods")).unwrap();
            kubelet.clear(&target).unwrap();
        });
    }

    #[test]
    fn a_descriptor_whose_superblock_is_gone_is_dead() {
        in_private_namespace(|dir| {
            let (kubelet, target) = mk_kubelet(dir);
            let Detached { fuse, mount } = superblock().unwrap();
            let writable = kubelet.attach(&target, mount.as_fd()).unwrap();
            assert!(!is_dead(fuse.as_fd()));
            kubelet.clear(&target).unwrap();
            assert!(!is_dead(fuse.as_fd()), "the clone keeps it");
            drop((mount, writable));
            assert!(is_dead(fuse.as_fd()));
        });
    }

    #[test]
    fn a_foreign_mount_at_the_target_is_neither_covered_nor_taken_away() {
        in_private_namespace(|dir| {
            let (kubelet, target) = mk_kubelet(dir);
            let path = dir.join(TARGET);
            fs::create_dir(&path).unwrap();
            let flags = sys::MountFlags::empty();
            sys::mount("tmpfs", &path, "tmpfs", flags, None).unwrap();
            let foreign = Occupant::Foreign("tmpfs".to_owned());
            assert_eq!(kubelet.occupant(&target).unwrap(), foreign);
            let Detached { fuse: _fuse, mount } = superblock().unwrap();
            assert!(kubelet.attach(&target, mount.as_fd()).is_err());
            assert!(kubelet.writable(&target).is_err(), "no swap works on a foreign mount");
            kubelet.clear(&target).unwrap();
            assert_eq!(kubelet.occupant(&target).unwrap(), foreign);
            sys::unmount(&path, sys::UnmountFlags::DETACH).unwrap();
            assert!(kubelet.writable(&target).is_err(), "nor on the host's own folder");
        });
    }

    #[test]
    fn no_symlink_on_the_way_to_the_target_is_followed() {
        in_private_namespace(|dir| {
            let (kubelet, target) = mk_kubelet(dir);
            let elsewhere = tempfile::tempdir().unwrap();
            let Detached { fuse: _fuse, mount } = superblock().unwrap();
            for link in [TARGET, "pods/1/volumes/kubernetes.io~csi/v", "pods/1"] {
                let link = dir.join(link);
                if link.exists() {
                    fs::remove_dir_all(&link).unwrap();
                }
                std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
                assert!(kubelet.attach(&target, mount.as_fd()).is_err(), "{link:?}");
                assert!(kubelet.writable(&target).is_err(), "{link:?}");
                let _refused = kubelet.clear(&target).is_err();
                assert!(link.is_symlink() && elsewhere.path().exists());
                fs::remove_file(&link).unwrap();
            }
            assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
        });
    }

    #[test]
    fn the_kernels_own_text_is_understood() {
        let text = fs::read("/proc/self/mountinfo").unwrap();
        let lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty()).count();
        assert_eq!(mountinfo::parse(&text).count(), lines);
        assert!(mountinfo::topmost(&text, Path::new("/")).is_some());
    }
}
