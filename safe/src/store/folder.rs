//! Folders of a file store: made durably, and walked.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use super::StoreError;

pub(super) fn on(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { action, path, source }
}

/// Makes a folder and those above it; a new one is on stable storage before it is used.
pub(super) fn make_folders(folder: &Path) -> Result<(), StoreError> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = match folder.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _none => Path::new("."),
    };
    make_folders(above)?;
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(on("make", folder)(e)),
        _made => {}
    }
    sync_folder(above)
}

pub(super) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(on("sync", folder))
}

pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(on("list", folder))
}

pub(super) fn walk(folder: &Path, visit: &mut dyn FnMut(&Path)) -> Result<(), StoreError> {
    for path in entries(folder)? {
        if path.is_dir() && !path.is_symlink() {
            walk(&path, visit)?;
        } else {
            visit(&path);
        }
    }
    Ok(())
}
