//! User namespaces, for those who are not root.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    unistd::{getegid, geteuid},
};

use crate::{fuse, layout::Layout};

/// A namespace could not be made or entered.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// Not allowed here.
    #[error(
        "mounting needs root or a user namespace, and this machine gives no user namespaces to uid {uid}: {hint}"
    )]
    Forbidden {
        /// Us.
        uid: u32,
        /// What to do.
        hint: &'static str,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// The namespace was made, but not its map.
    #[error("cannot write {}", path.display())]
    Map {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its mounts could not be parted from those outside.
    #[error("cannot make the mounts private")]
    Private(#[source] Errno),
    /// FUSE is closed to us already outside.
    #[error(transparent)]
    NoFuse(#[from] fuse::NoFuse),
    /// Nothing runs there.
    #[error("no playground runs in {}: start one with `vsecm-playground up {}`", folder.display(), folder.display())]
    NotRunning {
        /// Where.
        folder: PathBuf,
    },
    /// Its namespace cannot be entered.
    #[error(
        "cannot enter the namespace of the playground's process {pid}; it belongs to the user who runs it"
    )]
    Enter {
        /// The process.
        pid: i32,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where the playground lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// In the namespaces we were started in.
    Here,
    /// In a user and a mount namespace of its own.
    OwnNamespace,
}

/// Bit of `CAP_SYS_ADMIN` in the kernel's capability masks.
const CAP_SYS_ADMIN: u64 = 1 << 21;

fn can_mount() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & CAP_SYS_ADMIN != 0)
}

/// Enters a new user and mount namespace, as `unshare -Urm` does, where mounting is not allowed to
/// us here. Before any thread is started: the kernel refuses it to a process with several.
///
/// # Errors
/// [`NamespaceError`], whose sentences say what to do.
pub fn enter_if_needed() -> Result<Home, NamespaceError> {
    if can_mount() {
        return Ok(Home::Here);
    }
    // the same device is met inside, and its sentence is the better one
    drop(fuse::open_device()?);
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let both = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS;
    unshare(both).map_err(|source| NamespaceError::Forbidden {
        uid,
        hint: hint(source),
        source,
    })?;
    for (path, content) in [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ] {
        fs::write(path, content)
            .map_err(|source| NamespaceError::Map { path: path.into(), source })?;
    }
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .map_err(NamespaceError::Private)?;
    Ok(Home::OwnNamespace)
}

/// Which of the switches is off.
fn hint(error: Errno) -> &'static str {
    let is = |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|v| v.trim() == value);
    if error == Errno::ENOSPC || is("/proc/sys/user/max_user_namespaces", "0") {
        "allow them (as root: `sysctl user.max_user_namespaces=10000`), or run this as root"
    } else if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "allow them (as root: `sysctl kernel.unprivileged_userns_clone=1`), or run this as root"
    } else if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        "allow them (as root: `sysctl kernel.apparmor_restrict_unprivileged_userns=0`), or run this as root"
    } else {
        "run this as root; in a container, add `--privileged`, as its seccomp profile forbids them"
    }
}

/// Enters the namespaces of the playground in `layout`'s folder, if they are not ours. Before any
/// thread is started.
///
/// # Errors
/// [`NamespaceError::NotRunning`], [`NamespaceError::Enter`].
pub fn enter(layout: &Layout) -> Result<(), NamespaceError> {
    let pid = fs::read_to_string(layout.pid_file())
        .ok()
        .and_then(|text| text.trim().parse::<i32>().ok())
        .filter(|pid| Path::new(&format!("/proc/{pid}")).exists());
    let Some(pid) = pid else {
        return Err(NamespaceError::NotRunning { folder: layout.root().to_owned() });
    };
    let failed = |source| NamespaceError::Enter { pid, source };
    let namespace = |of: &str, kind: &str| PathBuf::from(format!("/proc/{of}/ns/{kind}"));
    let theirs = fs::read_link(namespace(&pid.to_string(), "user")).map_err(failed)?;
    let ours = fs::read_link(namespace("self", "user")).map_err(failed)?;
    if theirs == ours {
        return Ok(());
    }
    let open = |kind| File::open(namespace(&pid.to_string(), kind)).map_err(failed);
    let (user, mnt) = (open("user")?, open("mnt")?);
    for (file, kind) in [(user, CloneFlags::CLONE_NEWUSER), (mnt, CloneFlags::CLONE_NEWNS)] {
        setns(file, kind).map_err(|e| failed(e.into()))?;
    }
    Ok(())
}
