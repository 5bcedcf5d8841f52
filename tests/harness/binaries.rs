//! Where the components' executables are.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use crate::{
    component::Component,
    layout::{Layout, closed_ancestor, give},
    users::{Users, ourselves},
};

/// An executable cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BinariesError {
    /// We do not know where we are.
    #[error("cannot tell where this program lies")]
    Unknown(#[source] io::Error),
    /// It is not there.
    #[error(
        "{binary} is not in {}: build everything with `cargo build --workspace --bins`",
        folder.display()
    )]
    Missing {
        /// Which.
        binary: &'static str,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// It could not be copied.
    #[error("cannot copy the binaries to {}", folder.display())]
    Copy {
        /// Where to.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The folder of this program's build, which has all the others.
///
/// # Errors
/// [`BinariesError::Unknown`], [`BinariesError::Missing`].
pub fn built() -> Result<PathBuf, BinariesError> {
    let program = env::current_exe().map_err(BinariesError::Unknown)?;
    let beside = program.parent().unwrap_or(Path::new("/"));
    // tests lie one folder deeper
    let folder = match (beside.file_name(), beside.parent()) {
        (Some(name), Some(above)) if name == "deps" => above,
        _ => beside,
    };
    for component in Component::ALL {
        let binary = component.binary();
        if !folder.join(binary).is_file() {
            return Err(BinariesError::Missing { binary, folder: folder.to_owned() });
        }
    }
    Ok(folder.to_owned())
}

/// The binaries where every user of `users` can run them: where they were built or, where only we
/// can go there (a checkout below /root), as copies in the playground.
pub(crate) fn reachable(layout: &Layout, users: Users) -> Result<PathBuf, BinariesError> {
    let built = built()?;
    if users == Users::Single || closed_ancestor(&built).is_none() {
        return Ok(built);
    }
    let folder = layout.bin();
    let copy = || {
        fs::create_dir_all(&folder)?;
        give(&folder, ourselves(), 0o755)?;
        for component in Component::ALL {
            let binary = component.binary();
            let copy = folder.join(binary);
            // a running copy cannot be written, but it can be replaced
            match fs::remove_file(&copy) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            fs::copy(built.join(binary), &copy)?;
            give(&copy, ourselves(), 0o755)?;
        }
        Ok(())
    };
    match copy() {
        Ok(()) => Ok(folder),
        Err(source) => Err(BinariesError::Copy { folder, source }),
    }
}
