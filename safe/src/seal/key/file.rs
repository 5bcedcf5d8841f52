//! The root key's file: who may read it, and how it comes into being.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use super::{Place, RootKeyError};

/// Three lines have 202 bytes; anything much longer is no root key.
const MAX_FILE_BYTES: u64 = 4096;

/// The file's text, if there is a file, after its permissions were checked on the open descriptor.
pub(crate) fn read(path: &Path) -> Result<Option<Zeroizing<String>>, RootKeyError> {
    let failed = |source| RootKeyError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        let place = Place::File(path.to_owned());
        return Err(RootKeyError::Malformed { place, rule: "it is not a file" });
    }
    check_permissions(
        path,
        metadata.mode() & 0o7777,
        metadata.uid(),
        nix::unistd::geteuid().as_raw(),
    )?;
    // one allocation: a growing buffer would leave copies of the key behind
    let mut text = Zeroizing::new(String::with_capacity(8192));
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(failed)?;
    Ok(Some(text))
}

/// Nobody else may read the key, and only its owner may write it.
///
/// A Secret that Kubernetes mounts for a user who is not root belongs to root and is read by way
/// of its group (`fsGroup`): there, and only there, the group may read.
pub(super) fn check_permissions(
    path: &Path,
    mode: u32,
    owner: u32,
    us: u32,
) -> Result<(), RootKeyError> {
    let refused =
        |rule| Err(RootKeyError::Permissions { path: path.to_owned(), mode, owner, rule });
    if owner != us && owner != 0 {
        return refused("it must belong to Safe's own user or to root");
    }
    if mode & 0o022 != 0 {
        return refused("only its owner may write it (chmod 600)");
    }
    if mode & 0o007 != 0 {
        return refused("others must not read it (chmod 600)");
    }
    if mode & 0o040 != 0 && owner == us {
        return refused("its group must not read it (chmod 600)");
    }
    Ok(())
}

/// A new file that appears under its name only when it is whole, and replaces no other.
pub(super) fn create(path: &Path, text: &str) -> io::Result<()> {
    let temporary = write_temporary(path, text)?;
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary)?;
    linked?;
    sync_folder(path)
}

pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let temporary = write_temporary(path, text)?;
    fs::rename(&temporary, path)?;
    sync_folder(path)
}

fn write_temporary(path: &Path, text: &str) -> io::Result<PathBuf> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _gone => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(temporary)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _none => Path::new("."),
    };
    File::open(folder)?.sync_all()
}
