//! The file operations of a rotation, on the private read-write clone of a volume's mount.
//!
//! The tree is served by a process that csi does not trust. So names are said by us or match a
//! strict pattern, folders are opened below the root without following anything, all is bounded,
//! and a server that does not answer hangs one thread and no more (the caller's deadline).
//!
//! They are those of a Kubernetes Secret volume, in its order, so that inotify watchers see what
//! they see there; reads turn over at the rename, atomically ([I4]). The folder of the version
//! before is removed later, when no path walk can be inside it: an rmdir ends such a walk with
//! ENOENT.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, fchmod, mkdirat, openat2, renameat,
        symlinkat, unlinkat,
    },
    io::Errno,
};
use vsecm_node_agent_api::{
    frame::Bind,
    items::DEPTH_LIMIT,
    volume::{FileName, VersionDir},
};

use crate::mount::{INSIDE, StepError, step};

/// Names in a version, or at a root, at most.
pub const ENTRY_LIMIT: usize = 16_384;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// Why a swap failed. The tree may be between two steps; the same swap can be tried again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwapError {
    /// An operation failed.
    #[error(transparent)]
    Step(#[from] StepError),
    /// The server names something that no tree of ours has.
    #[error("the tree has an entry that does not belong there")]
    StrangeName,
    /// The server names more than a tree of ours has.
    #[error("a folder of the tree has more than {ENTRY_LIMIT} entries")]
    TooLarge,
}

/// Publishes a version, and then takes the names of the files of those that it replaces. Blocks as
/// long as the server pleases.
pub fn publish(
    root: BorrowedFd<'_>,
    dir: &VersionDir,
    replaced: &[VersionDir],
) -> Result<(), SwapError> {
    // the two modes are the kubelet's: watchers see the second one being set
    match mkdirat(root, dir.as_str(), Mode::RWXU) {
        Ok(()) => {
            // by descriptor: by name it could be a symlink to anywhere by now
            folder(root, dir.as_str())
                .and_then(|folder| fchmod(folder, Mode::from_raw_mode(0o755)))
                .map_err(step("set the mode of the new version's folder"))?;
        }
        // an interrupted swap made it
        Err(Errno::EXIST) => {}
        Err(e) => return Err(step("make the new version's folder")(e).into()),
    }
    let shown = names_in(root, dir.as_str(), |_| false)?;

    remove(root, DATA_NEXT).map_err(step("remove what an interrupted swap left"))?;
    symlinkat(dir.as_str(), root, DATA_NEXT).map_err(step("link the new version"))?;
    renameat(root, DATA_NEXT, root, DATA).map_err(step("turn ..data over"))?;

    // what is neither a name nor this, no tree of ours has
    let is_ours = |n: &str| matches!(n, DATA | DATA_NEXT) || n.parse::<VersionDir>().is_ok();
    let linked = names_in(root, ".", is_ours)?;
    for name in shown.difference(&linked) {
        let name = name.as_str();
        symlinkat(format!("{DATA}/{name}"), root, name).map_err(step("link a new file"))?;
    }
    for name in linked.difference(&shown) {
        remove(root, name.as_str()).map_err(step("remove the link of a file that is gone"))?;
    }
    replaced.iter().filter(|old| *old != dir).try_for_each(|old| empty(root, old))
}

/// Takes the names of a version's files. The server gives them to who comes late nevertheless.
fn empty(root: BorrowedFd<'_>, dir: &VersionDir) -> Result<(), SwapError> {
    let folder = match folder(root, dir.as_str()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened.map_err(step("open the folder of the version before"))?,
    };
    empty_folder(folder.as_fd(), DEPTH_LIMIT)
}

/// The folders in it stay, without names: they go with the version.
fn empty_folder(open: BorrowedFd<'_>, depth: usize) -> Result<(), SwapError> {
    for name in names_in(open, ".", |_| false)? {
        match remove(open, name.as_str()) {
            Err(Errno::ISDIR) if depth > 0 => {
                let inner = folder(open, name.as_str()).map_err(step("open a folder"))?;
                empty_folder(inner.as_fd(), depth - 1)?;
            }
            Err(Errno::ISDIR) => return Err(SwapError::StrangeName),
            done => done.map_err(step("remove a file that is gone"))?,
        }
    }
    Ok(())
}

/// Removes folders of versions that nobody walks into any more, except those that mounts show: it
/// would empty these.
pub fn retire(root: BorrowedFd<'_>, dirs: &[VersionDir], binds: &[Bind]) -> Result<(), SwapError> {
    let is_bound = |dir: &VersionDir| binds.iter().any(|bind| bind.dir == *dir);
    let mut dirs = dirs.iter().filter(|dir| !is_bound(dir));
    dirs.try_for_each(|dir| remove_folder(root, dir.as_str(), DEPTH_LIMIT))
}

/// Removes a folder, those in it first. Its files have lost their names; the server lists them for
/// who came late.
fn remove_folder(parent: BorrowedFd<'_>, name: &str, depth: usize) -> Result<(), SwapError> {
    let open = match folder(parent, name) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened.map_err(step("open the folder of a version that is gone"))?,
    };
    for (name, kind) in entries_in(open.as_fd(), ".", |_| false)? {
        if kind == FileType::Directory {
            let depth = depth.checked_sub(1).ok_or(SwapError::StrangeName)?;
            remove_folder(open.as_fd(), name.as_str(), depth)?;
        }
    }
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(step("remove the folder of a version that is gone")(e).into()),
    }
}

fn remove(folder: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        done => done,
    }
}

fn folder(root: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(root, name, flags, Mode::empty(), INSIDE | ResolveFlags::NO_XDEV)
}

/// The names of files and folders in a folder.
fn names_in(
    root: BorrowedFd<'_>,
    folder: &str,
    is_ours: impl Fn(&str) -> bool,
) -> Result<BTreeSet<FileName>, SwapError> {
    Ok(entries_in(root, folder, is_ours)?.into_keys().collect())
}

/// The same and what they are, read to its end before anything in it is changed.
fn entries_in(
    root: BorrowedFd<'_>,
    folder: &str,
    is_ours: impl Fn(&str) -> bool,
) -> Result<BTreeMap<FileName, FileType>, SwapError> {
    let entries = self::folder(root, folder).and_then(Dir::new);
    let mut names = BTreeMap::new();
    for (count, entry) in entries.map_err(step("open a folder"))?.enumerate() {
        // a folder has `.` and `..`, the root also `..data` and a few versions
        if count >= ENTRY_LIMIT + 16 {
            return Err(SwapError::TooLarge);
        }
        let entry = entry.map_err(step("read a folder"))?;
        let name = entry.file_name().to_str().map_err(|_utf8| SwapError::StrangeName)?;
        if !matches!(name, "." | "..") && !is_ours(name) {
            let name = name.parse().map_err(|_rule| SwapError::StrangeName)?;
            names.insert(name, entry.file_type());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use super::*;
    use crate::mount::{
        self,
        lab::{
            MKDIR, Node, RENAME, RMDIR, SETATTR, SYMLINK, Server, TARGET, UNLINK,
            in_private_namespace,
        },
    };

    fn version(name: &str) -> VersionDir {
        name.parse().unwrap()
    }

    fn add(root: &Path, version: &str, names: &[&str]) {
        fs::create_dir(root.join(version)).unwrap();
        for name in names {
            fs::write(root.join(version).join(name), version).unwrap();
        }
    }

    fn listing(root: &Path) -> Vec<String> {
        let entries = fs::read_dir(root).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn turn(root: &Path, dir: &str) -> Result<(), SwapError> {
        let folder = fs::File::open(root).unwrap();
        publish(folder.as_fd(), &version(dir), &[])
    }

    #[test]
    fn a_swap_shows_the_new_version_with_exactly_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        add(root, "..1", &["a", "b"]);
        turn(root, "..1").unwrap();
        assert_eq!(listing(root), ["..1", "..data", "a", "b"]);
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "..1");

        add(root, "..2", &["b", "c"]);
        symlink("..gone", root.join("..data_tmp")).unwrap();
        turn(root, "..2").unwrap();
        assert_eq!(listing(root), ["..1", "..2", "..data", "b", "c"]);
        assert_eq!(fs::read_to_string(root.join("b")).unwrap(), "..2");
        turn(root, "..2").expect("the same swap can be tried again");
        assert_eq!(listing(root), ["..1", "..2", "..data", "b", "c"]);

        add(root, "..3", &[]);
        turn(root, "..3").unwrap();
        assert_eq!(listing(root), ["..1", "..2", "..3", "..data"]);
        assert_eq!(listing(&root.join("..1")), ["a", "b"], "only what is replaced loses its names");
        let folder = fs::File::open(root).unwrap();
        let old = [version("..1"), version("..2"), version("..3"), version("..gone")];
        publish(folder.as_fd(), &version("..3"), &old).unwrap();
        assert_eq!(listing(&root.join("..1")), [""; 0]);
        let bind = Bind { dir: version("..2"), path: "a".to_owned(), ino: None };
        retire(folder.as_fd(), &old[..2], &[bind]).unwrap();
        retire(folder.as_fd(), &old[..1], &[]).expect("it is gone already");
        add(root, "..4", &["a"]);
        add(&root.join("..4"), "tls", &["key"]);
        empty(folder.as_fd(), &version("..4")).unwrap();
        assert_eq!(listing(&root.join("..4")), ["tls"], "a folder stays for who is inside");
        retire(folder.as_fd(), &[version("..4")], &[]).unwrap();
        assert_eq!(listing(root), ["..2", "..3", "..data"]);
    }

    #[test]
    fn a_folder_that_is_a_symlink_leads_nowhere() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("precious"), "x").unwrap();
        let dir = tempfile::tempdir().unwrap();
        symlink(outside.path(), dir.path().join("..evil")).unwrap();
        assert!(matches!(turn(dir.path(), "..evil"), Err(SwapError::Step(..))));
        assert_eq!(listing(outside.path()), ["precious"]);
        assert_eq!(listing(dir.path()), ["..evil"]);
    }

    #[test]
    fn a_name_that_does_not_belong_there_ends_the_swap() {
        for (at, name) in [("", "..x.y"), ("..1", "..data"), ("..1", "..other")] {
            let dir = tempfile::tempdir().unwrap();
            add(dir.path(), "..1", &["a"]);
            fs::write(dir.path().join(at).join(name), "").unwrap();
            assert!(matches!(turn(dir.path(), "..1"), Err(SwapError::StrangeName)), "{at}/{name}");
        }
    }

    #[test]
    fn a_folder_with_too_many_names_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        add(dir.path(), "..1", &[]);
        for number in 0..ENTRY_LIMIT + 20 {
            fs::File::create(dir.path().join("..1").join(number.to_string())).unwrap();
        }
        assert!(matches!(turn(dir.path(), "..1"), Err(SwapError::TooLarge)));
    }

    fn folder_of(server: &Server, name: &str, files: &[&str]) {
        server.add(name, Node::Folder(BTreeMap::new()));
        for file in files {
            server.add(&format!("{name}/{file}"), Node::File);
        }
    }

    fn mk_fuse(kubelet: &Path) -> (Server, OwnedFd) {
        let mount::Detached { fuse, mount } = mount::superblock(None).unwrap();
        let server = Server::start(fuse);
        let kubelet = mount::Kubelet::open(kubelet).unwrap();
        let root = kubelet.attach(&TARGET.parse().unwrap(), mount.as_fd());
        (server, root.unwrap())
    }

    #[test]
    fn a_server_sees_exactly_the_operations_of_the_swap() {
        in_private_namespace(|dir| {
            let (server, root) = mk_fuse(dir);
            folder_of(&server, "..1", &["a", "b"]);
            publish(root.as_fd(), &version("..1"), &[]).unwrap();
            publish(root.as_fd(), &version("..2"), &[version("..1")]).unwrap();
            retire(root.as_fd(), &[version("..1")], &[]).unwrap();
            let seen = server.mutations();
            let seen: Vec<_> = seen.iter().map(|(op, name)| (*op, name.as_str())).collect();
            let expected = [
                (SYMLINK, "..data_tmp"),
                (RENAME, "..data"),
                (SYMLINK, "a"),
                (SYMLINK, "b"),
                (MKDIR, "..2"),
                (SETATTR, ""),
                (SYMLINK, "..data_tmp"),
                (RENAME, "..data"),
                (UNLINK, "a"),
                (UNLINK, "b"),
                (UNLINK, "a"),
                (UNLINK, "b"),
                (RMDIR, "..1"),
            ];
            assert_eq!(seen, expected);
        });
    }

    #[test]
    fn a_server_that_lies_about_names_and_folders_gets_no_operation_beyond_its_root() {
        in_private_namespace(|dir| {
            let (server, root) = mk_fuse(dir);
            let outside = dir.join("pods").to_str().unwrap().to_owned();
            server.add("..link", Node::Link(outside.clone()));
            server.add("..up", Node::Link("../../../../../../../..".to_owned()));
            folder_of(&server, "..1", &["a"]);
            folder_of(&server, "..slash", &[]);
            // split_once keeps the second part whole: a name with a slash in it
            server.add(&format!("..slash/{outside}"), Node::File);
            folder_of(&server, "..dots", &["..", "..data"]);
            for bad in ["..link", "..up", "..slash", "..dots"] {
                let refused = publish(root.as_fd(), &version(bad), &[]);
                assert!(refused.is_err(), "{bad}");
                assert_eq!(server.mutations(), [], "{bad}");
            }
            for bad in ["..link", "..up", "..slash", "..dots"] {
                let refused = empty(root.as_fd(), &version(bad));
                assert!(refused.is_err(), "{bad}");
                assert_eq!(server.mutations(), [], "{bad}");
            }
            assert!(dir.join("pods/1").is_dir());
        });
    }
}
