//! A real mount for tests, in a mount namespace of its own.

use std::{
    fs::{self, OpenOptions},
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

/// A mount that goes when it is dropped. The test's own thread has the namespace; threads that it
/// starts later share it.
pub(crate) struct Mount {
    dir: tempfile::TempDir,
    fuse: OwnedFd,
}

impl Mount {
    /// A mount whose INIT waits in the descriptor that is returned.
    pub(crate) fn new() -> (Self, OwnedFd) {
        unshare(CloneFlags::CLONE_NEWNS).expect("these tests need root, or a user namespace");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let fuse = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .expect("these tests need /dev/fuse");
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
            fuse.as_raw_fd()
        );
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("vsecm"), dir.path(), Some("fuse.vsecm"), flags, Some(options.as_str()))
            .unwrap();
        let fuse = OwnedFd::from(fuse);
        let kept = fuse.try_clone().unwrap();
        (Self { dir, fuse: kept }, fuse)
    }

    /// The volume's root.
    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    /// The descriptor, as the keeper has it.
    pub(crate) fn fuse(&self) -> &OwnedFd {
        &self.fuse
    }

    /// A path in the volume.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Binds `from` to `to`, until the guard is dropped.
    pub(crate) fn bind(&self, from: &Path, to: &Path) -> Bound {
        let from = from.canonicalize().unwrap();
        assert!(from.starts_with(self.root()));
        mount(Some(&from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        Bound(to.to_owned())
    }

    /// A file's text.
    pub(crate) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
}

/// A bind that goes when it is dropped.
pub(crate) struct Bound(PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).ok();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        umount2(self.dir.path(), MntFlags::MNT_DETACH).ok();
    }
}

/// Runs `test` on a thread of its own, as `unshare` is for ever.
pub(crate) fn apart(test: impl FnOnce() + Send + 'static) {
    thread::spawn(test).join().unwrap();
}
