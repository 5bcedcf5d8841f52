//! What lies where below the playground's folder, and whose it is.

use std::{
    fs, io,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Uid, chown};

use crate::{
    authority::Caller,
    component::Component,
    users::{Users, ourselves},
};

/// Bytes of a Unix socket's path at most (`sun_path` without its NUL).
const SOCKET_PATH_LIMIT: usize = 107;

/// The folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// It, or something in it, cannot be made or cleared.
    #[error("cannot make or clear {}", path.display())]
    Make {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Socket paths would be too long.
    #[error(
        "{} is too long a path: the kernel takes {SOCKET_PATH_LIMIT} bytes for a socket, so choose a folder whose path has at most {} bytes",
        folder.display(), SOCKET_PATH_LIMIT - DEEPEST_SOCKET
    )]
    TooDeep {
        /// The folder.
        folder: PathBuf,
    },
    /// Components cannot get there.
    #[error(
        "{} lets no other user in, and the components run as users of their own: choose a folder elsewhere, such as below /tmp",
        ancestor.display()
    )]
    Closed {
        /// The folder above that is closed.
        ancestor: PathBuf,
    },
}

/// Bytes below the folder of the longest socket path: a pod's, with the slash before it.
const DEEPEST_SOCKET: usize = "/identity/".len() + 36 + "/api.sock".len();

/// The folder of a playground.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Makes the folder.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn create(folder: &Path, users: Users) -> Result<Self, LayoutError> {
        let make = |source| LayoutError::Make { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(make)?;
        let root = fs::canonicalize(folder).map_err(make)?;
        if root.as_os_str().len() + DEEPEST_SOCKET > SOCKET_PATH_LIMIT {
            return Err(LayoutError::TooDeep { folder: root });
        }
        give(&root, ourselves(), 0o755).map_err(make)?;
        match closed_ancestor(&root) {
            Some(ancestor) if users == Users::Own => Err(LayoutError::Closed { ancestor }),
            _ => Ok(Self { root }),
        }
    }

    /// Makes what the components expect to find, in place of what a predecessor left that had no
    /// time to clean up. Records, keys and logs stay. Nothing may be mounted below.
    ///
    /// # Errors
    /// [`LayoutError::Make`].
    pub(crate) fn furnish(&self, users: Users) -> Result<(), LayoutError> {
        let own = |component| users.owner(component);
        let us = ourselves();
        self.clear_running()?;
        for name in ["kubelet", "pods", "identity", "csi", "keeper", "node-agent"] {
            let path = self.root.join(name);
            match fs::remove_dir_all(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(LayoutError::Make { path, source });
                }
                _ => {}
            }
        }
        for (name, owner, mode) in [
            ("logs", us, 0o755),
            ("kubelet", us, 0o755),
            ("pods", us, 0o755),
            // the sockets' own folders are closed
            ("identity", us, 0o711),
            ("csi", us, 0o700),
            ("safe", own(Component::Safe), 0o700),
            ("safe/key", own(Component::Safe), 0o700),
            ("sentinel", own(Component::Sentinel), 0o700),
            // the group may pass to the socket
            ("keeper", own(Component::Keeper), 0o710),
            ("node-agent", own(Component::NodeAgent), 0o710),
        ] {
            let path = self.root.join(name);
            fs::create_dir_all(&path)
                .and_then(|()| give(&path, owner, mode))
                .map_err(|source| LayoutError::Make { path, source })?;
        }
        Ok(())
    }

    /// Removes what is there while a playground runs and no longer.
    pub(crate) fn clear_running(&self) -> Result<(), LayoutError> {
        for path in [self.ready_file(), self.env_file(), self.pid_file(), self.control_socket()] {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(LayoutError::Make { path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A playground that is there already.
    pub fn existing(folder: &Path) -> io::Result<Self> {
        let root = fs::canonicalize(folder)?;
        Ok(Self { root })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Export lines for a shell.
    pub fn env_file(&self) -> PathBuf {
        self.root.join("env")
    }

    /// There when everything runs.
    pub fn ready_file(&self) -> PathBuf {
        self.root.join("ready")
    }

    /// Locked by the playground that has the folder.
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// The process id of `up`.
    pub fn pid_file(&self) -> PathBuf {
        self.root.join("up.pid")
    }

    /// Where `up` takes requests.
    pub fn control_socket(&self) -> PathBuf {
        self.root.join("control.sock")
    }

    /// What a component has written.
    pub fn log(&self, component: Component) -> PathBuf {
        let name = format!("{}.log", component.name());
        self.root.join("logs").join(name)
    }

    /// Copies of the binaries, where components could not reach the originals.
    pub(crate) fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// The Workload API of a component.
    pub fn workload_socket(&self, component: Component) -> PathBuf {
        self.identity_socket(component.name())
    }

    /// The Workload API of a pod.
    pub fn pod_socket(&self, uid: &str) -> PathBuf {
        self.identity_socket(uid)
    }

    /// The Delegated Identity API.
    pub fn admin_socket(&self) -> PathBuf {
        self.identity_socket("admin")
    }

    fn identity_socket(&self, name: &str) -> PathBuf {
        self.root.join("identity").join(name).join("api.sock")
    }

    /// safe's sealed records.
    pub fn safe_data(&self) -> PathBuf {
        self.root.join("safe/data")
    }

    /// safe's root key.
    pub fn root_key(&self) -> PathBuf {
        self.root.join("safe/key/key.txt")
    }

    /// The digest of sentinel's token, for safe.
    pub fn token_digest(&self) -> PathBuf {
        self.root.join("safe/admin-token.sha256")
    }

    /// sentinel's second proof.
    pub fn token(&self) -> PathBuf {
        self.root.join("sentinel/token")
    }

    /// keeper's socket.
    pub fn keeper_socket(&self) -> PathBuf {
        self.root.join("keeper/keeper.sock")
    }

    /// node-agent's socket.
    pub fn node_agent_socket(&self) -> PathBuf {
        self.root.join("node-agent/node-agent.sock")
    }

    /// The CSI endpoint.
    pub fn csi_socket(&self) -> PathBuf {
        self.root.join("csi/csi.sock")
    }

    /// Stands for /var/lib/kubelet.
    pub fn kubelet(&self) -> PathBuf {
        self.root.join("kubelet")
    }

    /// Links to the volumes by names.
    pub fn pod_link(&self, namespace: &str, pod: &str) -> PathBuf {
        let folder = self.root.join("pods").join(namespace);
        folder.join(pod).join("vsecm")
    }
}

/// Hands a path to an owner.
pub(crate) fn give(path: &Path, owner: Caller, mode: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    chown(path, Some(uid), Some(gid))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Writes a file that only its owner can read.
pub(crate) fn write_private(path: &Path, content: &str, owner: Caller) -> io::Result<()> {
    use io::Write as _;

    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o400).open(path)?;
    file.write_all(content.as_bytes())?;
    give(path, owner, 0o400)
}

/// The first folder from the root that others cannot pass.
pub(crate) fn closed_ancestor(path: &Path) -> Option<PathBuf> {
    let mut ancestors: Vec<_> = path.ancestors().collect();
    ancestors.reverse();
    let closed = |folder: &&Path| {
        fs::metadata(folder).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 == 0)
    };
    ancestors.into_iter().find(closed).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_socket_is_a_pods() {
        let layout = Layout { root: "/".into() };
        let pod = layout.pod_socket("01234567-0123-0123-0123-0123456789ab");
        let length = pod.as_os_str().len();
        assert_eq!(length, DEEPEST_SOCKET);
        for other in [
            layout.workload_socket(Component::NodeAgent),
            layout.admin_socket(),
            layout.control_socket(),
            layout.keeper_socket(),
            layout.node_agent_socket(),
            layout.csi_socket(),
        ] {
            assert!(other.as_os_str().len() <= length, "{}", other.display());
        }
    }

    #[test]
    fn a_folder_that_is_too_deep_is_refused_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("x".repeat(60));
        let refusal = Layout::create(&deep, Users::Single).unwrap_err();
        assert!(refusal.to_string().contains("at most 52 bytes"), "{refusal}");
    }

    #[test]
    fn a_folder_that_others_cannot_reach_is_refused_in_words() {
        if Users::detect() == Users::Single {
            return;
        }
        let closed = tempfile::tempdir().unwrap();
        fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let refusal = Layout::create(&closed.path().join("p"), Users::Own).unwrap_err();
        assert!(matches!(refusal, LayoutError::Closed { .. }), "{refusal}");
    }
}
