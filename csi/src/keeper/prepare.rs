//! The folder of the keeper's socket, made by an init container, which alone is root.

use std::{
    io::{self, ErrorKind},
    path::{Component, Path},
};

use rustix::{
    fs::{CWD, Gid, Mode, OFlags, Uid, fchmod, fchown, mkdirat, openat},
    io::Errno,
};

use super::Owner;

/// Makes the folder where it is missing, with those above it, and gives it to its owner; others may
/// only pass, and only in its group. No symlink on the way is followed.
pub fn prepare(folder: &Path, owner: Owner) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut parts = folder.components();
    if parts.next() != Some(Component::RootDir) {
        return Err(io::Error::new(ErrorKind::InvalidInput, "the folder's path must be absolute"));
    }
    if parts.clone().next().is_none() {
        // as a path of which a variable was empty: all would be the owner's
        return Err(io::Error::new(ErrorKind::InvalidInput, "the root folder is nobody's to give"));
    }
    let mut at = openat(CWD, "/", flags, Mode::empty())?;
    for part in parts {
        let Component::Normal(name) = part else {
            return Err(io::Error::new(ErrorKind::InvalidInput, "the folder's path has dots"));
        };
        match mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        at = openat(&at, name, flags, Mode::empty())?;
    }
    fchown(&at, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
    Ok(fchmod(&at, Mode::from_raw_mode(0o710))?)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    };

    use super::*;

    #[test]
    fn a_folder_is_made_and_made_good_as_often_as_one_likes() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run/vsecm/keeper");
        let owner = Owner {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        };
        prepare(&folder, owner).unwrap();
        fs::write(folder.join("keeper.sock"), "").unwrap();
        for spoilt in [0o777, 0o700] {
            let mode = fs::Permissions::from_mode(spoilt);
            fs::set_permissions(&folder, mode).unwrap();
            prepare(&folder, owner).unwrap();
            let now = fs::metadata(&folder).unwrap();
            assert_eq!((now.mode() & 0o7777, now.uid(), now.gid()), (0o710, owner.uid, owner.gid));
        }
        assert!(folder.join("keeper.sock").exists(), "what is there stays");
    }

    #[test]
    fn a_symlink_anywhere_on_the_way_is_refused_and_nothing_behind_it_changes() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let owner = Owner { uid: 0, gid: 0 };
        let before = fs::metadata(elsewhere.path()).unwrap().mode();
        symlink(elsewhere.path(), dir.path().join("link")).unwrap();
        for path in ["link", "link/keeper"] {
            prepare(&dir.path().join(path), owner).unwrap_err();
        }
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
        assert_eq!(fs::metadata(elsewhere.path()).unwrap().mode(), before);
        for no_folder in ["relative", "", "/", "//", "/."] {
            let refusal = prepare(Path::new(no_folder), owner).unwrap_err();
            assert_eq!(refusal.kind(), ErrorKind::InvalidInput, "{no_folder:?}");
        }
        prepare(&dir.path().join("a/../b"), owner).unwrap_err();
    }
}
