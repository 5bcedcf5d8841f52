//! The swap of a volume to its next version, on the private read-write clone of its mount.
//!
//! The tree is served by a process that csi does not trust. So names are said by us or match a
//! strict pattern, folders are opened below the root without following anything, all is bounded,
//! and a server that does not answer hangs one thread and no more (the caller's deadline).
//!
//! The order of the operations is what a Kubernetes Secret volume shows to inotify watchers; reads
//! turn over at the rename, atomically ([I4]).

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, openat2, renameat, symlinkat, unlinkat},
    io::Errno,
};
use vsecm_node_agent_api::volume::{FileName, VersionDir};

/// Names in a version, or at a root, at most.
pub const ENTRY_LIMIT: usize = 16_384;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// Why a swap failed. The tree may be between two steps; the same swap can be tried again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwapError {
    /// An operation failed.
    #[error("cannot {0}")]
    Step(&'static str, #[source] io::Error),
    /// The server names something that no tree of ours has.
    #[error("the tree has an entry that does not belong there")]
    StrangeName,
    /// The server names more than a tree of ours has.
    #[error("a folder of the tree has more than {ENTRY_LIMIT} entries")]
    TooLarge,
}

fn step<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> SwapError {
    move |e| SwapError::Step(step, e.into())
}

/// Publishes a version whose folder is in the tree already, and removes the one before.
/// Blocks as long as the server pleases.
pub fn swap(
    root: BorrowedFd<'_>,
    publish: &VersionDir,
    retire: Option<&VersionDir>,
) -> Result<(), SwapError> {
    let shown = files_in(folder(root, publish.as_str()).map_err(step("open the new version"))?)?;

    remove(root, DATA_NEXT).map_err(step("remove what an interrupted swap left"))?;
    symlinkat(publish.as_str(), root, DATA_NEXT).map_err(step("link the new version"))?;
    renameat(root, DATA_NEXT, root, DATA).map_err(step("turn ..data over"))?;

    let linked = links_at(root)?;
    for name in shown.difference(&linked) {
        let name = name.as_str();
        symlinkat(format!("{DATA}/{name}"), root, name).map_err(step("link a new file"))?;
    }
    for name in linked.difference(&shown) {
        remove(root, name.as_str()).map_err(step("remove the link of a file that is gone"))?;
    }
    match retire {
        Some(old) if old != publish => remove_version(root, old),
        _ => Ok(()),
    }
}

fn remove_version(root: BorrowedFd<'_>, version: &VersionDir) -> Result<(), SwapError> {
    let old = match folder(root, version.as_str()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened.map_err(step("open the old version"))?,
    };
    for name in files_in(old.try_clone().map_err(step("open the old version"))?)? {
        remove(old.as_fd(), name.as_str()).map_err(step("remove a file of the old version"))?;
    }
    drop(old);
    absent(unlinkat(root, version.as_str(), AtFlags::REMOVEDIR))
        .map_err(step("remove the old version"))
}

fn remove(folder: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    absent(unlinkat(folder, name, AtFlags::empty()))
}

fn absent(result: Result<(), Errno>) -> Result<(), Errno> {
    if result == Err(Errno::NOENT) {
        Ok(())
    } else {
        result
    }
}

fn folder(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inside = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    openat2(parent, name, flags, Mode::empty(), inside)
}

/// The names in a folder, read to its end before anything in it is changed.
fn names_in(folder: OwnedFd) -> Result<Vec<String>, SwapError> {
    let mut names = Vec::new();
    for entry in Dir::new(folder).map_err(step("read a folder"))? {
        let entry = entry.map_err(step("read a folder"))?;
        // the root holds `.`, `..`, `..data` and a few versions beside the names
        if names.len() >= ENTRY_LIMIT + 16 {
            return Err(SwapError::TooLarge);
        }
        let name = entry
            .file_name()
            .to_str()
            .map_err(|_utf8| SwapError::StrangeName)?;
        names.push(name.to_owned());
    }
    names.retain(|name| !matches!(name.as_str(), "." | ".."));
    Ok(names)
}

fn files_in(version: OwnedFd) -> Result<BTreeSet<FileName>, SwapError> {
    let parse = |name: String| name.parse().map_err(|_rule| SwapError::StrangeName);
    names_in(version)?.into_iter().map(parse).collect()
}

/// The names at the root that are neither `..data` nor folders of versions.
fn links_at(root: BorrowedFd<'_>) -> Result<BTreeSet<FileName>, SwapError> {
    let mut names = names_in(folder(root, ".").map_err(step("open the root"))?)?;
    names.retain(|n| !matches!(n.as_str(), DATA | DATA_NEXT) && n.parse::<VersionDir>().is_err());
    let parse = |name: String| name.parse().map_err(|_rule| SwapError::StrangeName);
    names.into_iter().map(parse).collect()
}
