//! A fuser session on a descriptor that csi opened.
//!
//! A *fresh* descriptor has the kernel's INIT waiting. One that a dead predecessor served has not,
//! and stock fuser has no way to go on with it; here it is given an INIT of our own over a socket
//! pair, and then the real descriptor is put under its number. The kernel is then asked to send
//! again what the predecessor had taken and to look names up anew.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    thread,
    time::Duration,
};

use fuser::{Config, INodeNo, Notifier, Session, SessionACL};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use tokio::sync::oneshot;
use tracing::{debug, warn};
use vsecm_node_agent_api::kernel::Feature;

use crate::{
    filesystem::{Observers, VolumeFilesystem},
    inode::ROOT,
    kernel,
    tree::{Child, Tree},
    view::View,
};

mod adopt;
pub mod finish;

/// Why a descriptor is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The kernel sent no INIT.
    #[error("the kernel did not start the volume within {} seconds", INIT_WAIT.as_secs())]
    NoInit,
    /// The file system was unmounted or aborted.
    #[error("the kernel has closed the volume's connection")]
    Closed,
    /// The process was told to end.
    #[error("this node agent ends; its successor goes on")]
    Ending,
    /// fuser failed.
    #[error("the session could not be started")]
    Start(#[source] io::Error),
}

/// csi hands a descriptor over after the kernel has queued its INIT; that is no wait at all.
const INIT_WAIT: Duration = Duration::from_secs(5);

/// How a session came to its end.
#[derive(Debug)]
pub enum End {
    /// The kernel closed the connection: an umount, or an abort.
    Closed,
    /// The session broke while the kernel still wants it.
    Broken(io::Error),
}

/// Whether the kernel's INIT has been answered before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It waits in the descriptor.
    Fresh,
    /// A predecessor answered it.
    Resumed,
}

/// A session that runs on threads of its own until the kernel closes the connection.
#[derive(Debug)]
pub struct Serving {
    notifier: Notifier,
}

/// Starts to serve `view` on `descriptor`. Blocks for moments. `end` hears of the session's end.
///
/// # Errors
/// [`SessionError`].
pub fn serve(
    view: &Arc<View>,
    descriptor: OwnedFd,
    start: Start,
    observers: Observers,
) -> Result<(Serving, oneshot::Receiver<End>), SessionError> {
    if finish::is_finishing() {
        return Err(SessionError::Ending);
    }
    let filesystem = VolumeFilesystem::new(Arc::clone(view), observers);
    let session = match start {
        Start::Fresh => fresh(filesystem, descriptor)?,
        Start::Resumed => resumed(filesystem, &descriptor)?,
    };
    let notifier = session.notifier();
    let enlisted = finish::enlist(session.as_fd()).map_err(SessionError::Start)?;
    let raw = Arc::clone(&enlisted);
    let (ended, end) = oneshot::channel();
    thread::Builder::new()
        .name("vsecm-volume".to_owned())
        .spawn(move || {
            let result = session.run();
            drop(enlisted);
            if finish::is_finishing() {
                // it was ended by us, and is nobody's news
                std::mem::forget(ended);
                return;
            }
            let how = match result {
                Ok(()) => End::Closed,
                Err(broken) => End::Broken(broken),
            };
            if ended.send(how).is_err() {
                debug!("nobody waits for the end of a session");
            }
        })
        .map_err(SessionError::Start)?;
    let serving = Serving { notifier };
    if start == Start::Resumed {
        // only now, as the answers to what is sent again may be waited for
        serving.announce(view, raw.fuse());
    }
    Ok((serving, end))
}

fn config() -> Config {
    let mut config = Config::default();
    // who may read is decided by the kernel (default_permissions), not by fuser
    config.acl = SessionACL::All;
    config.n_threads = Some(1);
    // a clone has requests of its own in flight, which would die with it: the keeper has one descriptor
    config.clone_fd = false;
    config
}

fn is_ready(descriptor: &OwnedFd, wait: Duration) -> io::Result<PollFlags> {
    let mut polled = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(wait).map_err(io::Error::other)?;
    poll(&mut polled, timeout)?;
    let [polled] = polled;
    Ok(polled.revents().unwrap_or(PollFlags::empty()))
}

fn fresh(
    filesystem: VolumeFilesystem,
    descriptor: OwnedFd,
) -> Result<Session<VolumeFilesystem>, SessionError> {
    let ready = is_ready(&descriptor, INIT_WAIT).map_err(SessionError::Start)?;
    if ready.contains(PollFlags::POLLERR) {
        return Err(SessionError::Closed);
    }
    if !ready.contains(PollFlags::POLLIN) {
        return Err(SessionError::NoInit);
    }
    Session::from_fd(filesystem, descriptor, SessionACL::All, config()).map_err(SessionError::Start)
}

fn resumed(
    filesystem: VolumeFilesystem,
    descriptor: &OwnedFd,
) -> Result<Session<VolumeFilesystem>, SessionError> {
    let ready = is_ready(descriptor, Duration::ZERO).map_err(SessionError::Start)?;
    if ready.contains(PollFlags::POLLERR) {
        return Err(SessionError::Closed);
    }
    let shaken = || {
        let (kernel, ours) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        send(&kernel, &init_request(), SendFlags::NOSIGNAL)?;
        // the answer goes to our end of the pair and is dropped with it
        let session = Session::from_fd(filesystem, ours, SessionACL::All, config())?;
        adopt::replace(session.as_fd(), descriptor)?;
        Ok(session)
    };
    shaken().map_err(SessionError::Start)
}

/// INIT as the kernel would send it: it offers everything but `io_uring`.
fn init_request() -> Vec<u8> {
    const LENGTH: u32 = 40 + 64;
    const INIT: u32 = 26;
    const INIT_EXT: u32 = 1 << 30;
    const OVER_IO_URING: u64 = 1 << 41;
    const READAHEAD: u32 = 128 * 1024;
    let offered = !OVER_IO_URING;
    let mut request = Vec::with_capacity(LENGTH as usize);
    let mut put = |bytes: &[u8]| request.extend_from_slice(bytes);
    put(&LENGTH.to_ne_bytes());
    put(&INIT.to_ne_bytes());
    put(&1_u64.to_ne_bytes());
    // node, uid, gid, pid and padding
    put(&[0; 24]);
    let low = u32::try_from(offered & u64::from(u32::MAX)).unwrap_or_default();
    let high = u32::try_from(offered >> 32).unwrap_or_default();
    for field in [7, 40, READAHEAD, low | INIT_EXT, high] {
        put(&field.to_ne_bytes());
    }
    request.resize(LENGTH as usize, 0);
    request
}

/// Asks for the requests that were taken and not answered (Linux 6.9).
const NOTIFY_RESEND: i32 = 7;
/// Makes the kernel look every name up anew (Linux 6.16).
const NOTIFY_INC_EPOCH: i32 = 8;

fn notify(descriptor: &OwnedFd, code: i32, feature: Feature) -> io::Result<()> {
    if !kernel::may_use(feature) {
        // as a kernel says it that does not know the code
        return Err(Errno::EINVAL.into());
    }
    let mut message = [0; 16];
    let (length, rest) = message.split_at_mut(4);
    length.copy_from_slice(&16_u32.to_ne_bytes());
    rest.split_at_mut(4).0.copy_from_slice(&code.to_ne_bytes());
    rustix::io::write(descriptor, &message)?;
    Ok(())
}

impl Serving {
    fn announce(&self, view: &View, raw: &OwnedFd) {
        if let Err(error) = notify(raw, NOTIFY_RESEND, Feature::Resend) {
            warn!(%error, "the kernel does not send again what a predecessor had taken");
        }
        if let Err(error) = notify(raw, NOTIFY_INC_EPOCH, Feature::IncEpoch) {
            debug!(%error, "the kernel is told name by name");
            for name in view.load().root_names() {
                self.forget_name(&name);
            }
        }
        self.forget_listing();
    }

    /// Makes the kernel look `name` at the root up again. Never from a thread that answers the
    /// kernel: it waits for operations in flight at the root.
    pub fn forget_name(&self, name: &str) {
        let told = self.notifier.inval_entry(INodeNo(ROOT), name.as_ref());
        if let Err(error) = told {
            debug!(name, %error, "a name could not be invalidated");
        }
    }

    /// Takes a version's names from the kernel: watchers of its files hear of their end, as on a
    /// Secret volume. Path walks inside the folder go on.
    pub fn forget_version(&self, tree: &Tree) {
        // from the innermost folders outwards
        for folder in tree.folders().rev() {
            let parent = INodeNo(folder.ino());
            for (name, child) in tree.children(folder) {
                let told = match child {
                    Child::File(file) => {
                        self.notifier.delete(parent, INodeNo(file.ino()), name.as_ref())
                    }
                    // a folder that is told to be deleted is one in which nothing can be found
                    Child::Folder(_) => self.notifier.inval_entry(parent, name.as_ref()),
                };
                if let Err(error) = told {
                    debug!(name, %error, "the end of a name could not be told");
                }
            }
        }
        self.forget_name(tree.dir().as_str());
    }

    /// Makes the kernel look `name` in a folder up again.
    pub fn forget_entry(&self, folder: u64, name: &str) {
        if let Err(error) = self.notifier.inval_entry(INodeNo(folder), name.as_ref()) {
            debug!(name, %error, "a name could not be invalidated");
        }
    }

    /// Makes the kernel ask for an inode's attributes and bytes again: what it has of them is
    /// not there any more. It may wait for a read in flight, which the session answers.
    pub fn forget_content(&self, ino: u64) {
        if let Err(error) = self.notifier.inval_inode(INodeNo(ino), 0, 0) {
            debug!(ino, %error, "content could not be invalidated");
        }
    }

    /// Makes the kernel list the root again.
    pub fn forget_listing(&self) {
        if let Err(error) = self.notifier.inval_inode(INodeNo(ROOT), 0, 0) {
            debug!(%error, "the listing could not be invalidated");
        }
    }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod opens;
#[cfg(test)]
mod tests;
