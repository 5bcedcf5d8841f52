//! A subPath mount, as the kubelet makes it.

use std::{
    fs,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{Mode, OFlags, open};
use vsecm_tests::{Playground, Pod};

/// What the kubelet has found at a subPath, and is about to mount.
#[derive(Debug)]
pub(crate) struct Found {
    fd: OwnedFd,
    is_folder: bool,
    target: PathBuf,
}

/// A subPath mount, until it is dropped.
#[derive(Debug)]
pub(crate) struct SubPath {
    target: PathBuf,
}

/// Resolves all symlinks below the volume, and opens what is there.
pub(crate) fn find(playground: &Playground, pod: &Pod, path: &str, container: &str) -> Found {
    let found = pod.path().join(path).canonicalize().unwrap();
    assert!(found.starts_with(pod.path()));
    let is_folder = found.is_dir();
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = open(&found, flags, Mode::empty()).unwrap();
    let pods = playground.layout().kubelet().join("pods");
    let folder = pods.join(pod.uid()).join("volume-subpaths/vsecm").join(container);
    Found { fd, is_folder, target: folder.join("0") }
}

impl Found {
    /// Mounts it, and makes it read-only.
    pub(crate) fn bind(self) -> SubPath {
        self.try_bind().unwrap()
    }

    /// The same; the kernel mounts nothing that was unlinked since it was found.
    pub(crate) fn try_bind(self) -> std::io::Result<SubPath> {
        let Self { fd, is_folder, target } = self;
        fs::create_dir_all(target.parent().unwrap())?;
        if is_folder {
            fs::create_dir(&target)?;
        } else {
            fs::write(&target, "")?;
        }
        let mounted = SubPath { target };
        let target = &mounted.target;
        let source = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let none = None::<&str>;
        mount(Some(source.as_str()), target, none, MsFlags::MS_BIND, none)?;
        let again = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(none, target, none, again, none)?;
        Ok(mounted)
    }
}

impl SubPath {
    /// Where the container has it.
    pub(crate) fn path(&self) -> &Path {
        &self.target
    }

    /// Its content, opened anew.
    pub(crate) fn text(&self) -> std::io::Result<String> {
        fs::read_to_string(&self.target)
    }

    /// What the kubelet does before a container starts again: it looks at the mount and at the
    /// subPath, and mounts that anew if it is another file. The runtime then binds what is there.
    pub(crate) fn restart(
        self,
        playground: &Playground,
        pod: &Pod,
        path: &str,
        container: &str,
    ) -> std::io::Result<Self> {
        let before = fs::symlink_metadata(&self.target)?;
        let now = fs::metadata(pod.path().join(path))?;
        let mounted = if (before.dev(), before.ino()) == (now.dev(), now.ino()) {
            self
        } else {
            drop(self);
            find(playground, pod, path, container).try_bind()?
        };
        mounted.start()?;
        Ok(mounted)
    }

    /// What the runtime does with the mount.
    pub(crate) fn start(&self) -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        let point = folder.path().join("point");
        if self.target.is_dir() {
            fs::create_dir(&point)?;
        } else {
            fs::write(&point, "")?;
        }
        let none = None::<&str>;
        mount(Some(&self.target), &point, none, MsFlags::MS_BIND, none)?;
        Ok(umount2(&point, MntFlags::MNT_DETACH)?)
    }
}

impl Drop for SubPath {
    fn drop(&mut self) {
        let _gone: Result<(), _> = umount2(&self.target, MntFlags::MNT_DETACH);
        let is_file = fs::remove_file(&self.target).is_ok();
        let _gone = is_file || fs::remove_dir(&self.target).is_ok();
        // volume-subpaths/VOLUME/CONTAINER, if nothing else is there
        let folders = self.target.ancestors().skip(1).take(3);
        let _gone: Result<(), _> = folders.into_iter().try_for_each(fs::remove_dir);
    }
}
