//! The swap of a volume to its next version, on the private read-write clone of its mount.
//!
//! The tree is served by a process that csi does not trust. So names are said by us or match a
//! strict pattern, folders are opened below the root without following anything, everything is
//! bounded, and a server that does not answer hangs one thread and no more (the caller's deadline).
//!
//! The order of the operations is what a Kubernetes Secret volume shows to inotify watchers; reads
//! turn over at the rename, atomically ([I4]).

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, renameat, symlinkat, unlinkat,
    },
    io::Errno,
};
use vsecm_node_agent_api::volume::{FileName, VersionDir};

/// Names in a version, and at a root, at most. A document of 1 MiB could have more keys;
/// node-agent shows such a document as one file.
pub const ENTRY_LIMIT: usize = 16_384;

/// Folders within folders at most, in a version that is removed.
const DEPTH_LIMIT: usize = 8;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// Why a swap failed. The tree may be between two steps; the same swap can be tried again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwapError {
    /// An operation failed.
    #[error("cannot {step}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// What the kernel, or the server through it, said.
        #[source]
        source: io::Error,
    },
    /// The server names something that no tree of ours has.
    #[error("the tree has an entry that does not belong there")]
    StrangeName,
    /// The server names more than a tree of ours has.
    #[error("the tree has more than {ENTRY_LIMIT} entries or {DEPTH_LIMIT} levels")]
    TooLarge,
}

fn step(step: &'static str) -> impl FnOnce(Errno) -> SwapError {
    move |e| SwapError::Step {
        step,
        source: e.into(),
    }
}

/// Publishes a version whose folder is in the tree already, and removes the one before.
/// Blocks as long as the server pleases.
pub fn swap(
    root: BorrowedFd<'_>,
    publish: &VersionDir,
    retire: Option<&VersionDir>,
) -> Result<(), SwapError> {
    let shown = names_in(open_folder(root, publish.as_str())?)?;

    absent(unlinkat(root, DATA_NEXT, AtFlags::empty()))
        .map_err(step("remove what an interrupted swap left"))?;
    symlinkat(publish.as_str(), root, DATA_NEXT).map_err(step("link the new version"))?;
    renameat(root, DATA_NEXT, root, DATA).map_err(step("turn ..data over"))?;

    let linked = links_at(root)?;
    for name in shown.difference(&linked) {
        let name = name.as_str();
        symlinkat(format!("{DATA}/{name}"), root, name).map_err(step("link a new file"))?;
    }
    for name in linked.difference(&shown) {
        absent(unlinkat(root, name.as_str(), AtFlags::empty()))
            .map_err(step("remove the link of a file that is gone"))?;
    }
    match retire {
        Some(old) if old != publish => remove_folder(root, old.as_str(), &mut Budget::default()),
        _ => Ok(()),
    }
}

fn absent(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

fn open_folder(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, SwapError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inside = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    openat2(parent, name, flags, Mode::empty(), inside).map_err(step("open a folder"))
}

/// What a server may still name before it is not believed any more.
struct Budget {
    entries: usize,
    levels: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            // the root holds links, `..data` and a few folders of versions beside the names
            entries: ENTRY_LIMIT + 16,
            levels: DEPTH_LIMIT,
        }
    }
}

/// Reads a folder to its end before anything in it is changed.
fn entries_of(folder: OwnedFd, budget: &mut Budget) -> Result<Vec<(String, FileType)>, SwapError> {
    let mut entries = Vec::new();
    for entry in Dir::new(folder).map_err(step("read a folder"))? {
        let entry = entry.map_err(step("read a folder"))?;
        let Ok(name) = entry.file_name().to_str() else {
            return Err(SwapError::StrangeName);
        };
        budget.entries = budget.entries.checked_sub(1).ok_or(SwapError::TooLarge)?;
        if !matches!(name, "." | "..") {
            entries.push((name.to_owned(), entry.file_type()));
        }
    }
    Ok(entries)
}

fn names_in(folder: OwnedFd) -> Result<BTreeSet<FileName>, SwapError> {
    entries_of(folder, &mut Budget::default())?
        .into_iter()
        .map(|(name, _)| name.parse().map_err(|_rule| SwapError::StrangeName))
        .collect()
}

/// The names at the root that are neither `..data` nor folders of versions.
fn links_at(root: BorrowedFd<'_>) -> Result<BTreeSet<FileName>, SwapError> {
    let mut links = BTreeSet::new();
    for (name, _) in entries_of(open_folder(root, ".")?, &mut Budget::default())? {
        if let Ok(name) = name.parse::<FileName>() {
            links.insert(name);
        } else if !matches!(name.as_str(), DATA | DATA_NEXT) && name.parse::<VersionDir>().is_err()
        {
            return Err(SwapError::StrangeName);
        }
    }
    Ok(links)
}

/// Removes a folder and what is in it; one that is gone already is no error.
fn remove_folder(parent: BorrowedFd<'_>, name: &str, budget: &mut Budget) -> Result<(), SwapError> {
    let folder = match open_folder(parent, name) {
        Err(SwapError::Step { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(());
        }
        opened => opened?,
    };
    let listing = folder.try_clone().map_err(|source| SwapError::Step {
        step: "open a folder",
        source,
    })?;
    for (entry, kind) in entries_of(listing, budget)? {
        let entry: FileName = entry.parse().map_err(|_rule| SwapError::StrangeName)?;
        if kind == FileType::Directory {
            budget.levels = budget.levels.checked_sub(1).ok_or(SwapError::TooLarge)?;
            remove_folder(folder.as_fd(), entry.as_str(), budget)?;
            budget.levels += 1;
        } else {
            absent(unlinkat(&folder, entry.as_str(), AtFlags::empty()))
                .map_err(step("remove a file of the old version"))?;
        }
    }
    drop(folder);
    absent(unlinkat(parent, name, AtFlags::REMOVEDIR)).map_err(step("remove the old version"))
}
