//! The folder of node-agent's socket: its owner makes it, so that nobody else can bind there ([I9]).

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// It cannot be made or looked at.
    #[error("the folder {} cannot be made", .0.display())]
    Make(PathBuf, #[source] io::Error),
    /// Something else is there.
    #[error("{} is not a folder", .0.display())]
    NoFolder(PathBuf),
    /// Somebody else made it.
    #[error("the folder {} belongs to the user {owner}, not to {own}", path.display())]
    Owner {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it must be.
        own: u32,
    },
}

/// Makes `folder` this user's alone. Done before, it is left as it is.
///
/// # Errors
/// [`PrepareError`].
pub fn prepare(folder: &Path) -> Result<(), PrepareError> {
    let failed = |error| PrepareError::Make(folder.to_owned(), error);
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let found = fs::symlink_metadata(folder).map_err(failed)?;
    if !found.is_dir() {
        return Err(PrepareError::NoFolder(folder.to_owned()));
    }
    let own = rustix::process::geteuid().as_raw();
    if found.uid() != own {
        return Err(PrepareError::Owner { path: folder.to_owned(), owner: found.uid(), own });
    }
    fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_private_and_may_be_there_already() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("socket");
        prepare(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        prepare(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o7777, 0o700);
    }

    #[test]
    fn what_is_no_folder_is_refused_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        let refused = prepare(&link).unwrap_err().to_string();
        assert!(refused.ends_with("link is not a folder"), "{refused}");
        assert!(prepare(&dir.path().join("a/b")).is_err());
    }
}
