//! With a real mount each, in a mount namespace of its own.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use super::{
    fixture::{Mount, apart},
    *,
};
use crate::{
    inode::{Numbers, tests::KEY},
    mirror::{DATA, Expected, Mirror, Origin, link_target},
    tree::tests::tree,
};

pub(super) fn view(revision: u64, text: &str, origin: Origin) -> Arc<View> {
    let tree = Arc::new(tree(revision, text));
    Arc::new(View::new(Mirror::new(Numbers::new(KEY), tree, origin)))
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Stages a version, and swaps to it as csi does.
pub(super) fn rotate(view: &View, serving: &Serving, root: &Path, revision: u64, text: &str) {
    let new = Arc::new(tree(revision, text));
    let dir = new.dir().clone();
    let replaced = view.set(|mirror| {
        mirror.stage(Arc::clone(&new));
        let replaced = mirror.listed_beside(&dir);
        let expected = Expected::Publish { dir: dir.clone(), replaced: replaced.clone() };
        mirror.expect(Some(expected));
        replaced
    });
    let at = |name: &str| root.join(name);
    fs::create_dir(at(dir.as_str())).unwrap();
    fs::set_permissions(at(dir.as_str()), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink(dir.as_str(), at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at(DATA)).unwrap();
    let present = names(root);
    for (name, _child) in new.children(new.top()) {
        if !present.iter().any(|known| known == name) {
            std::os::unix::fs::symlink(link_target(name), at(name)).unwrap();
        }
    }
    for name in present {
        if !name.starts_with("..") && new.child(new.top(), &name).is_none() {
            fs::remove_file(at(&name)).unwrap();
        }
    }
    for old in replaced {
        for name in names(&at(old.as_str())) {
            fs::remove_file(at(old.as_str()).join(name)).unwrap();
        }
    }
    view.set(|mirror| {
        mirror.expect(None);
        mirror.leave_others(None);
        mirror.prune(std::time::Instant::now())
    });
    serving.forget_listing();
}

/// What comes after the grace: the removal by csi, or without it.
fn retire(view: &View, serving: &Serving, root: &Path, by_csi: bool) {
    let dirs = view.set(|mirror| {
        let dirs = mirror.to_retire(std::time::Instant::now(), Duration::ZERO);
        mirror.expect(Some(Expected::Retire(dirs.clone())));
        dirs
    });
    for dir in dirs.iter().filter(|_dir| by_csi) {
        fs::remove_dir(root.join(dir.as_str())).unwrap();
    }
    let gone = view.set(|mirror| {
        mirror.expect(None);
        mirror.withdraw(&dirs)
    });
    assert!(!by_csi || gone.is_empty());
    for tree in gone {
        serving.forget_version(&tree);
    }
}

#[test]
fn a_volume_looks_like_a_secret_volume() {
    apart(|| {
        let (mount, fuse) = Mount::new();
        let view = view(7, "{\"user\":\"admin\"}", Origin::Own);
        let (_serving, _end) = serve(&view, fuse, Start::Fresh, Observers::default()).unwrap();
        assert_eq!(mount.text("user"), "admin");
        assert_eq!(mount.text("secrets.json"), "{\"user\":\"admin\"}");
        assert_eq!(names(mount.root()), ["..7", "..data", "secrets.json", "user"]);
        assert_eq!(names(&mount.path("..data")), ["secrets.json", "user"]);
        let link = fs::read_link(mount.path("user")).unwrap();
        assert_eq!(link, Path::new("..data/user"));
        let file = fs::metadata(mount.path("user")).unwrap();
        assert_eq!((file.mode() & 0o7777, file.uid(), file.len()), (0o444, 0, 5));
        let root = fs::metadata(mount.root()).unwrap();
        assert_eq!(root.mode() & 0o7777, 0o755);
        assert!(fs::metadata(mount.path("missing")).is_err());
    });
}

#[test]
fn whoever_writes_outside_a_swap_hears_that_the_volume_is_read_only() {
    apart(|| {
        let (mount, fuse) = Mount::new();
        let view = view(7, "{\"user\":\"admin\"}", Origin::Own);
        let (_serving, _end) = serve(&view, fuse, Start::Fresh, Observers::default()).unwrap();
        let refused = |result: io::Result<()>| {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(30), "EROFS");
        };
        refused(fs::write(mount.path("new"), "x"));
        refused(fs::write(mount.path("user"), "x"));
        refused(fs::remove_file(mount.path("user")));
        refused(fs::remove_file(mount.path("..7/user")));
        refused(fs::create_dir(mount.path("folder")));
        refused(fs::rename(mount.path("user"), mount.path("other")));
        refused(std::os::unix::fs::symlink("/etc", mount.path("..data_tmp")));
        refused(fs::hard_link(mount.path("..7/user"), mount.path("hard")));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        refused(fs::set_permissions(mount.path("..7/user"), mode));
        assert_eq!(mount.text("user"), "admin");
    });
}

#[test]
fn a_swap_shows_the_new_version_at_once_and_open_files_keep_theirs() {
    apart(|| {
        let (mount, fuse) = Mount::new();
        let view = view(1, "{\"a\":\"old\",\"gone\":1}", Origin::Own);
        let (serving, _end) = serve(&view, fuse, Start::Fresh, Observers::default()).unwrap();
        assert_eq!(mount.text("a"), "old");
        assert!(fs::metadata(mount.path("..2")).is_err(), "remembered as missing");
        assert!(fs::metadata(mount.path("fresh")).is_err(), "remembered as missing");
        let mut held = File::open(mount.path("a")).unwrap();
        let unread = File::open(mount.path("gone")).unwrap();
        rotate(&view, &serving, mount.root(), 2, "{\"a\":\"new\",\"fresh\":2}");
        assert_eq!(mount.text("a"), "new");
        assert_eq!(mount.text("fresh"), "2");
        assert_eq!(names(mount.root()), ["..2", "..data", "a", "fresh", "secrets.json"]);
        assert_eq!(fs::read_to_string(mount.path("..1/a")).unwrap(), "old", "a late walk");
        retire(&view, &serving, mount.root(), true);
        assert!(fs::metadata(mount.path("..1")).is_err());
        let mut text = String::new();
        held.read_to_string(&mut text).unwrap();
        assert_eq!(text, "old");
        assert_eq!(io::read_to_string(unread).unwrap(), "1");
        // the kernel forgets the old version when its last descriptor is closed
        drop(held);
        let held = view.load();
        assert_eq!(held.versions(), 2);
    });
}

#[test]
fn a_bound_file_and_folder_as_a_subpath_makes_them_outlive_a_rotation() {
    apart(|| {
        let (mount, fuse) = Mount::new();
        let view = view(1, "{\"a\":\"old\"}", Origin::Own);
        let (serving, _end) = serve(&view, fuse, Start::Fresh, Observers::default()).unwrap();
        let outside = tempfile::tempdir().unwrap();
        let (file, folder) = (outside.path().join("file"), outside.path().join("folder"));
        fs::write(&file, "").unwrap();
        fs::create_dir(&folder).unwrap();
        // the kubelet resolves all links and binds what it finds
        let _file = mount.bind(&mount.path("a"), &file);
        let _folder = mount.bind(&mount.path("..data"), &folder);
        rotate(&view, &serving, mount.root(), 2, "{\"a\":\"new\"}");
        retire(&view, &serving, mount.root(), false);
        let later = std::time::Instant::now() + Duration::from_mins(1);
        view.set(|mirror| mirror.prune(later));
        assert_eq!(mount.text("a"), "new");
        assert_eq!(fs::read_to_string(&file).unwrap(), "old");
        assert_eq!(fs::metadata(&file).unwrap().len(), 3);
        assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "old");
    });
}

#[test]
fn a_thousand_keys_are_listed_and_read() {
    apart(|| {
        let members: Vec<String> = (0..1000).map(|n| format!("\"k{n}\":\"v{n}\"")).collect();
        let (mount, fuse) = Mount::new();
        let view = view(1, &format!("{{{}}}", members.join(",")), Origin::Own);
        let (_serving, _end) = serve(&view, fuse, Start::Fresh, Observers::default()).unwrap();
        assert_eq!(names(mount.root()).len(), 1003);
        assert_eq!(names(&mount.path("..data")).len(), 1001);
        for n in 0..1000 {
            assert_eq!(mount.text(&format!("k{n}")), format!("v{n}"));
        }
    });
}

#[test]
fn a_successor_goes_on_with_the_same_descriptor_and_inodes() {
    apart(|| {
        let (mount, fuse) = Mount::new();
        let kept = fuse.try_clone().unwrap();
        let json = "{\"a\":\"one\",\"b\":\"two\"}";
        // the predecessor answers INIT and nothing more, then is gone with its descriptor
        let predecessor = VolumeFilesystem::new(view(1, json, Origin::Own), Observers::default());
        drop(Session::from_fd(predecessor, fuse, SessionACL::All, config()).unwrap());
        let reader = {
            let path = mount.path("a");
            thread::spawn(move || fs::read_to_string(path))
        };
        let view = view(1, json, Origin::Inherited);
        let (serving, _end) = serve(&view, kept, Start::Resumed, Observers::default()).unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), "one");
        assert_eq!(mount.text("b"), "two");
        rotate(&view, &serving, mount.root(), 2, "{\"a\":\"three\"}");
        assert_eq!(mount.text("a"), "three");
        assert!(fs::metadata(mount.path("b")).is_err());
    });
}

#[test]
fn a_session_ends_when_the_volume_is_unmounted_and_cannot_be_resumed_then() {
    apart(|| {
        let (mount, fuse) = Mount::new();
        let kept = fuse.try_clone().unwrap();
        let view = view(1, "{}", Origin::Own);
        let (_serving, end) = serve(&view, fuse, Start::Fresh, Observers::default()).unwrap();
        assert_eq!(mount.text("secrets.json"), "{}");
        drop(mount);
        assert!(matches!(end.blocking_recv().unwrap(), End::Closed));
        let refused = serve(&view, kept, Start::Resumed, Observers::default());
        assert!(matches!(refused, Err(SessionError::Closed)));
    });
}

#[test]
fn no_reader_sees_a_torn_or_stale_version_during_a_thousand_rotations() {
    const ROTATIONS: u64 = 1000;
    const GRACE: Duration = Duration::from_secs(1);
    let document = |revision: u64| {
        let value = format!("{revision:08}").repeat(1024);
        format!("{{\"a\":\"{value}\",\"b\":\"{value}\"}}")
    };
    apart(move || {
        let (mount, fuse) = Mount::new();
        let view = view(1, &document(1), Origin::Own);
        let (serving, _end) = serve(&view, fuse, Start::Fresh, Observers::default()).unwrap();
        let published = std::sync::atomic::AtomicU64::new(1);
        let stop = AtomicBool::new(false);
        let hammer = |name: &'static str| {
            let path = mount.path(name);
            let mut reads = 0_u64;
            while !stop.load(Relaxed) {
                let oldest = published.load(Relaxed);
                let text = fs::read_to_string(&path).unwrap();
                let revision: u64 = text[..8].parse().unwrap();
                assert_eq!(text, format!("{revision:08}").repeat(1024), "torn");
                assert!(revision >= oldest, "stale: {revision} after {oldest}");
                reads += 1;
            }
            reads
        };
        thread::scope(|scope| {
            let hammers = ["a", "b", "a"].map(|name| scope.spawn(move || hammer(name)));
            for revision in 2..=ROTATIONS {
                let text = document(revision);
                rotate(&view, &serving, mount.root(), revision, &text);
                // what no walk can be on its way into goes, now and then
                let grace = if revision % 100 == 0 { GRACE } else { Duration::MAX };
                let gone = view.set(|mirror| {
                    let dirs = mirror.to_retire(std::time::Instant::now(), grace);
                    mirror.withdraw(&dirs)
                });
                for tree in &gone {
                    serving.forget_version(tree);
                }
                published.store(revision, Relaxed);
            }
            stop.store(true, Relaxed);
            for hammer in hammers {
                assert!(hammer.join().unwrap() > 0);
            }
        });
        // the kernel tells of what it has forgotten in its own time
        let later = std::time::Instant::now() + Duration::from_mins(1);
        let patience = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            retire(&view, &serving, mount.root(), true);
            for tree in view.load().lingering(later) {
                serving.forget_version(&tree);
            }
            let versions = view.set(|mirror| {
                mirror.prune(later);
                mirror.versions()
            });
            if versions == 1 {
                return;
            }
            let now = std::time::Instant::now();
            assert!(now < patience, "{versions} versions stay in memory");
            thread::sleep(Duration::from_millis(2));
        }
    });
}
