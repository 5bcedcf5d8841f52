//! A Secret volume as the kubelet writes it (`pkg/volume/util/atomic_writer.go`), call by call.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;

/// A tmpfs that holds one, and goes with it.
#[derive(Debug)]
pub(crate) struct SecretVolume {
    folder: TempDir,
}

impl SecretVolume {
    pub(crate) fn new() -> Self {
        let folder = TempDir::with_prefix("secret-volume-").unwrap();
        let none = None::<&str>;
        mount(Some("tmpfs"), folder.path(), Some("tmpfs"), MsFlags::empty(), none).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a version into the folder `version`.
    pub(crate) fn write(&self, version: &str, files: &BTreeMap<&str, &str>) -> io::Result<()> {
        let data = self.at("..data");
        let old = fs::read_link(&data).ok();
        fs::DirBuilder::new().mode(0o700).create(self.at(version))?;
        fs::set_permissions(self.at(version), fs::Permissions::from_mode(0o755))?;
        for (name, content) in files {
            let path = self.at(version).join(name);
            fs::write(&path, content)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        }
        symlink(version, self.at("..data_tmp"))?;
        fs::rename(self.at("..data_tmp"), &data)?;
        for name in files.keys() {
            if fs::read_link(self.at(name)).is_err() {
                symlink(Path::new("..data").join(name), self.at(name))?;
            }
        }
        for entry in fs::read_dir(self.path())? {
            let name = entry?.file_name().into_string().unwrap();
            if !name.starts_with("..") && !files.contains_key(name.as_str()) {
                fs::remove_file(self.at(&name))?;
            }
        }
        // as Go's RemoveAll: each file, then the folder
        old.map_or(Ok(()), |old| fs::remove_dir_all(self.path().join(old)))
    }
}

impl Drop for SecretVolume {
    fn drop(&mut self) {
        let _gone: Result<(), _> = umount2(self.folder.path(), MntFlags::MNT_DETACH);
    }
}
