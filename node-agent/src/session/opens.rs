//! What the kernel asks for when files are opened, with a real mount each.

use std::{
    fs::{self, File},
    io::Read as _,
    path::Path,
    process::Command,
    time::Instant,
};

use vsecm_safe_api::position::Revision;

use super::{
    fixture::{Mount, apart},
    tests::{rotate, view},
    *,
};
use crate::{
    audit::{
        Audit, Recorder,
        line::{Opened, Outcome},
        reader::Reader,
        tests::{Lines, Stuck},
    },
    filesystem::Operation,
    identity::tests::pod,
    mirror::Origin,
};

/// The size of the queue that one volume may take, and more.
const MANY: usize = 1100;

fn recorder(audit: &Audit) -> Arc<Recorder> {
    audit.recorder(&"csi-1".parse().unwrap(), &pod())
}

fn audited(audit: &Audit) -> Observers {
    Observers { opens: Some(recorder(audit)), ..Observers::default() }
}

/// Waits for what other threads do within moments.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < patience, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// All that a reader does with a file and its folder.
fn use_all(mount: &Mount) {
    let mut text = String::new();
    let mut file = File::open(mount.path("a")).unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one");
    assert_eq!(file.metadata().unwrap().len(), 3);
    drop(file);
    assert_eq!(fs::metadata(mount.path("a")).unwrap().len(), 3);
    assert_eq!(fs::read_link(mount.path("a")).unwrap(), Path::new("..data/a"));
    fs::read_link(mount.path("..data")).unwrap();
    assert_eq!(fs::read_dir(mount.root()).unwrap().count(), 4);
    assert_eq!(fs::read_dir(mount.path("..data")).unwrap().count(), 2);
    assert!(fs::metadata(mount.path("missing")).is_err());
}

#[test]
fn of_files_that_are_cached_the_kernel_asks_nothing() {
    apart(|| {
        let (mount, fuse) = Mount::new();
        let view = view(1, "{\"a\":\"one\"}", Origin::Own);
        let observers = Observers::default();
        let requests = Arc::clone(&observers.requests);
        let (_serving, _end) = serve(&view, fuse, Start::Fresh, observers).unwrap();
        // once to learn the content, once more for the times, which a first read makes uncertain
        use_all(&mount);
        use_all(&mount);
        let before = requests.all();
        assert_eq!(requests.of(Operation::Open), 1, "the answer is remembered");
        for _ in 0..100 {
            use_all(&mount);
        }
        assert_eq!(requests.all() - before, 0, "{requests:?}");
    });
}

#[test]
fn an_audited_volume_is_asked_for_opens_alone() {
    apart(|| {
        let (mount, fuse) = Mount::new();
        let view = view(1, "{\"a\":\"one\"}", Origin::Own);
        let audit = Audit::start("node-1", Lines::default()).unwrap();
        let observers = audited(&audit);
        let requests = Arc::clone(&observers.requests);
        let (_serving, _end) = serve(&view, fuse, Start::Fresh, observers).unwrap();
        use_all(&mount);
        use_all(&mount);
        let released = || requests.of(Operation::Release);
        until("releases", || released() == requests.of(Operation::Open));
        let (before, opens) = (requests.all(), requests.of(Operation::Open));
        for _ in 0..100 {
            use_all(&mount);
        }
        until("releases", || released() == requests.of(Operation::Open));
        assert_eq!(requests.of(Operation::Open) - opens, 100, "{requests:?}");
        assert_eq!(requests.all() - before, 200, "an open and its end: {requests:?}");
    });
}

fn lines_of(lines: &Lines, count: usize) -> Vec<(Reader, Opened)> {
    until("lines", || lines.opened().len() >= count);
    lines.opened()
}

#[test]
fn each_open_says_who_read_which_version_of_which_file() {
    apart(|| {
        let (mount, fuse) = Mount::new();
        let view = view(7, "{\"a\":\"one\"}", Origin::Own);
        let lines = Lines::default();
        let audit = Audit::start("node-1", lines.clone()).unwrap();
        let (serving, _end) = serve(&view, fuse, Start::Fresh, audited(&audit)).unwrap();
        let mut reader = Command::new("cat").arg(mount.path("a")).spawn().unwrap();
        assert!(reader.wait().unwrap().success());
        rotate(&view, &serving, mount.root(), 8, "{\"a\":\"two\"}");
        // a thread with a name of its own
        let path = mount.path("secrets.json");
        let thread = thread::Builder::new().name("other".to_owned());
        thread.spawn(move || File::open(path).map(drop)).unwrap().join().unwrap().unwrap();
        let all = lines_of(&lines, 2);
        assert_eq!(all.len(), 2, "{all:?}");
        let (who, what) = &all[0];
        assert_eq!((who.pid, who.command.as_deref()), (Some(reader.id()), Some("cat")));
        assert_eq!(who.uid, Some(nix::unistd::geteuid().as_raw()));
        assert_eq!(what.file.as_deref(), Some("a"));
        assert_eq!((what.revision, what.outcome), (Some(Revision(7)), Outcome::Opened));
        let (who, what) = &all[1];
        assert_eq!(who.pid, Some(std::process::id()));
        assert_ne!(who.command.as_deref(), Some("other"));
        assert_eq!(what.file.as_deref(), Some("secrets.json"));
        assert_eq!(what.revision, Some(Revision(8)));
        let secret = what.secret.as_ref().unwrap();
        assert_eq!(secret.to_string(), crate::snapshot::tests::key().secret.to_string());
    });
}

#[test]
fn a_successor_goes_on_recording_on_a_connection_that_asks() {
    apart(|| {
        let (mount, fuse) = Mount::new();
        let kept = fuse.try_clone().unwrap();
        let json = "{\"a\":\"one\"}";
        let lines = Lines::default();
        let audit = Audit::start("node-1", lines.clone()).unwrap();
        let predecessor = VolumeFilesystem::new(view(1, json, Origin::Own), audited(&audit));
        drop(Session::from_fd(predecessor, fuse, SessionACL::All, config()).unwrap());
        let path = mount.path("a");
        let reader = thread::spawn(move || fs::read_to_string(path));
        let view = view(1, json, Origin::Inherited);
        let (_serving, _end) = serve(&view, kept, Start::Resumed, audited(&audit)).unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), "one");
        assert_eq!(mount.text("a"), "one");
        assert_eq!(lines_of(&lines, 2).len(), 2);
    });
}

#[test]
fn no_reader_waits_for_a_log_that_takes_nothing() {
    apart(|| {
        let (mount, fuse) = Mount::new();
        let view = view(1, "{\"a\":\"one\"}", Origin::Own);
        let lines = Lines::default();
        let (stuck, go_on) = Stuck::new(lines.clone());
        let audit = Audit::start("node-1", stuck).unwrap();
        let (_serving, _end) = serve(&view, fuse, Start::Fresh, audited(&audit)).unwrap();
        for _ in 0..MANY {
            assert_eq!(mount.text("a"), "one");
        }
        let dropped = audit.dropped();
        assert!(dropped > 0, "there was room for all");
        drop(go_on);
        until("all lines", || audit.lines() + dropped == u64::try_from(MANY).unwrap());
    });
}

#[test]
fn an_open_for_writing_is_refused_and_recorded() {
    apart(|| {
        let (mount, fuse) = Mount::new();
        let view = view(1, "{\"a\":\"one\"}", Origin::Own);
        let lines = Lines::default();
        let audit = Audit::start("node-1", lines.clone()).unwrap();
        let (_serving, _end) = serve(&view, fuse, Start::Fresh, audited(&audit)).unwrap();
        let refused = File::options().append(true).open(mount.path("a")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(30), "EROFS");
        let all = lines_of(&lines, 1);
        assert_eq!(all[0].1.outcome, Outcome::ReadOnly);
    });
}
