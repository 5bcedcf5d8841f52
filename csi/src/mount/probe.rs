//! What this kernel offers: asked of a superblock that nobody ever sees.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vsecm_node_agent_api::kernel::{FLOOR, Feature, Features, version};

use super::{Detached, attr, superblock};

/// The kernel queues INIT before the superblock is there.
const INIT_WAIT: Duration = Duration::from_secs(2);

/// Bytes of the kernel's INIT; older ones send fewer.
const INIT: usize = 104;

/// Refuses kernels that lack what cannot be done without.
pub fn check_floor() -> Result<String, String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim_end().to_owned();
    match version(&release) {
        Some(version) if version < FLOOR => {
            Err(format!("this is Linux {release}; volumes need {}.{} or later", FLOOR.0, FLOOR.1))
        }
        _ => Ok(release),
    }
}

/// Refuses a kernel below the floor; says in one line what this one offers, and what follows where
/// it does not. A kernel that cannot be asked is said too: the first publish says more.
pub fn look(pretended: Features) -> Result<(), String> {
    let release = check_floor()?;
    match features() {
        Ok(found) => tell(&release, found.without(pretended)),
        Err(error) => tracing::warn!(%error, release, "what the kernel offers is not known"),
    }
    Ok(())
}

fn tell(release: &str, found: Features) {
    let lacking = Feature::ALL.into_iter().filter(|feature| !found.has(*feature));
    let lacking: Vec<_> =
        lacking.map(|feature| format!("{}: {}", feature.label(), feature.without())).collect();
    tracing::info!(release, ?found, lacking = lacking.join("; "), "what the kernel offers");
}

/// Makes a superblock, answers its INIT, tries each call and notification, and lets it go.
pub fn features() -> io::Result<Features> {
    let Detached { fuse, mount } = superblock(None).map_err(io::Error::other)?;
    // the call exists; nobody can use the mount
    attr::clear_read_only(mount.as_fd())?;
    let flags = begin(&fuse)?;
    let mut found = Features::default();
    for (bit, feature) in [(38, Feature::NoExportSupport), (40, Feature::Idmap)] {
        if flags & 1 << bit != 0 {
            found = found.with(feature);
        }
    }
    for (code, feature) in [(7_i32, Feature::Resend), (8, Feature::IncEpoch)] {
        let mut message = [0; 16];
        message[..4].copy_from_slice(&16_u32.to_ne_bytes());
        message[4..8].copy_from_slice(&code.to_ne_bytes());
        // EINVAL: a code that the kernel does not know
        if rustix::io::write(&fuse, &message).is_ok() {
            found = found.with(feature);
        }
    }
    Ok(found)
}

/// Answers INIT; what the kernel has offered.
fn begin(fuse: &OwnedFd) -> io::Result<u64> {
    let mut waited = [PollFd::new(fuse.as_fd(), PollFlags::POLLIN)];
    poll(&mut waited, PollTimeout::try_from(INIT_WAIT).map_err(io::Error::other)?)?;
    let mut space = vec![0; 16 * 1024];
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NONBLOCK;
    rustix::fs::fcntl_setfl(fuse, flags)?;
    let length = rustix::io::read(fuse, &mut space)?;
    space.truncate(length);
    space.resize(length.max(INIT), 0);
    let word = |at: usize| -> u32 {
        let bytes = space.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes)
    };
    let offered = u64::from(word(52)) | u64::from(word(56)) << 32;
    let mut answer = Vec::with_capacity(80);
    answer.extend_from_slice(&80_u32.to_ne_bytes());
    answer.extend_from_slice(&[0; 4]);
    answer.extend_from_slice(space.get(8..16).unwrap_or(&[0; 8]));
    // 7.31, which all kernels above the floor speak; the rest is what it was: nothing
    for number in [7_u32, 31, 0, 0] {
        answer.extend_from_slice(&number.to_ne_bytes());
    }
    answer.resize(36, 0);
    answer.extend_from_slice(&4096_u32.to_ne_bytes());
    answer.resize(80, 0);
    rustix::io::write(fuse, &answer)?;
    Ok(offered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::lab::in_private_namespace;

    #[test]
    fn this_kernel_is_probed_without_a_trace() {
        in_private_namespace(|_dir| {
            let release = check_floor().unwrap();
            let found = features().unwrap();
            let version = version(&release).unwrap();
            for (feature, since) in [
                (Feature::Resend, (6, 9)),
                (Feature::NoExportSupport, (6, 9)),
                (Feature::Idmap, (6, 12)),
                (Feature::IncEpoch, (6, 16)),
            ] {
                assert_eq!(found.has(feature), version >= since, "{feature:?} on {release}");
            }
        });
    }
}
