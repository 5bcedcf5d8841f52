//! A Unix socket that belongs to one caller.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use nix::unistd::{Gid, Uid, chown};
use tokio::net::UnixListener;
use tonic::transport::server::UdsConnectInfo;

/// Who may come: the owner of the socket, or root, to whom nothing can be denied anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user.
    pub uid: u32,
    /// Its group, for the files' ownership.
    pub gid: u32,
}

impl Caller {
    pub(super) fn admits(self, connection: &tonic::Extensions) -> bool {
        let peer = connection.get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
        peer.is_some_and(|peer| peer.uid() == self.uid || peer.uid() == 0)
    }
}

/// Listens at `path`, in a folder of the caller's that nobody else enters.
pub(super) fn listen(path: &Path, caller: Caller) -> io::Result<UnixListener> {
    let own = |path: &Path, mode: u32| {
        let (uid, gid) = (Uid::from_raw(caller.uid), Gid::from_raw(caller.gid));
        chown(path, Some(uid), Some(gid))?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        own(folder, 0o700)?;
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    own(path, 0o600)?;
    Ok(listener)
}
