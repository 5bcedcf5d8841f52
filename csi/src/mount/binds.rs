//! Mounts that show a part of a volume: what the kubelet makes of a subPath.

use std::{fs, os::fd::BorrowedFd, path::Path};

use rustix::fs::{AtFlags, Mode, OFlags, Statx, StatxFlags, openat2, statx};
use vsecm_node_agent_api::frame::Bind;

use super::{Kubelet, StepError, kubelet::INSIDE, mountinfo, step};

/// What the kernel knows of it, without a word to its server.
fn known(fd: BorrowedFd<'_>, wanted: StatxFlags) -> rustix::io::Result<Statx> {
    statx(fd, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, wanted)
}

fn device(of: &Statx) -> (u32, u32) {
    (of.stx_dev_major, of.stx_dev_minor)
}

impl Kubelet {
    /// All mounts of the superblock of `mount` that show a version or something in one, in order.
    pub fn binds(&self, mount: BorrowedFd<'_>) -> Result<Vec<Bind>, StepError> {
        let mount = known(mount, StatxFlags::empty()).map_err(step("tell the volume's device"))?;
        // the thread's: a process has one mount namespace, but each mount test has its own
        let text = fs::read("/proc/thread-self/mountinfo").map_err(step("read mountinfo"))?;
        let here = mountinfo::parse(&text).filter(|other| other.device == device(&mount));
        let mut binds: Vec<Bind> = here
            .filter_map(|other| {
                let (dir, path) = other.version()?;
                let ino = self.ino(Path::new(&other.point), device(&mount));
                Some(Bind { dir, path, ino })
            })
            .collect();
        binds.sort();
        binds.dedup();
        Ok(binds)
    }

    /// The inode at a mount point below the kubelet's folder, if it is of that device.
    fn ino(&self, point: &Path, of: (u32, u32)) -> Option<u64> {
        let point = point.strip_prefix(&self.path).ok()?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let there = openat2(&self.folder, point, flags, Mode::empty(), INSIDE).ok()?;
        let there = known(std::os::fd::AsFd::as_fd(&there), StatxFlags::INO).ok()?;
        // something else may be mounted upon it
        (device(&there) == of).then_some(there.stx_ino)
    }
}
