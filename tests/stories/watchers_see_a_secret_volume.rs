//! What watches the files of a Kubernetes Secret volume works here too: it sees the same events.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use inotify::{EventMask, Inotify, WatchMask};
use vsecm_tests::{
    PodSpec,
    awaiting::until,
    story::{self, SOON},
    watching::Watching,
};

use crate::support::{atomic_writer::SecretVolume, operator::Operator};

fn document(members: &[(&str, &str)]) -> String {
    serde_json::to_string(&members.iter().copied().collect::<BTreeMap<_, _>>()).unwrap()
}

fn version_at(volume: &Path) -> String {
    fs::read_link(volume.join("..data")).unwrap().to_str().unwrap().to_owned()
}

/// A watch on each of these, and one file that is held open.
fn watch_all(volume: &Path) -> (Vec<(&'static str, Watching)>, fs::File) {
    let held = fs::File::open(volume.join("held")).unwrap();
    let names = ["", "..data", "stays", "goes", "held"];
    let watches = names.map(|name| (name, Watching::begin(&volume.join(name)).unwrap()));
    (watches.into(), held)
}

/// The names in a folder go in the order in which the file system lists them.
fn ordered(name: &str, seen: &[String]) -> Vec<String> {
    let mut seen = seen.to_vec();
    if name == "..data" {
        let end = seen.iter().take_while(|event| event.starts_with("DELETE ")).count();
        seen[..end].sort();
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn each_watch_sees_the_events_of_a_secret_volume_one_by_one() {
    let story = story::start().await.unwrap();
    let operator = Operator::of(&story);
    let old = [("stays", "1"), ("goes", "1"), ("held", "1")];
    let new = [("stays", "22"), ("comes", "22"), ("held", "22")];
    operator.put("web", "default", document(&old).as_bytes()).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    pod.ready(SOON).await.unwrap();

    let theirs = SecretVolume::new();
    let with_document = |members: &[(&'static str, &'static str)]| {
        let mut files: BTreeMap<_, _> = members.iter().copied().collect();
        files.insert("secrets.json", "{}");
        files
    };
    let before = version_at(pod.path());
    theirs.write(&before, &with_document(&old)).unwrap();
    let (mut ours_seen, ours_held) = watch_all(pod.path());
    let (mut their_seen, their_held) = watch_all(theirs.path());

    let rotated = Instant::now();
    operator.put("web", "default", document(&new).as_bytes()).await.unwrap();
    until("the end of the watched file", SOON, || ours_seen[2].1.has_seen("DELETE_SELF"))
        .await
        .unwrap();
    let late = rotated.elapsed();
    assert!(late < Duration::from_secs(2), "who watches a file hears of it after {late:?} only");
    assert_eq!(fs::read_to_string(pod.path().join("stays")).unwrap(), "22");
    let after = version_at(pod.path());
    theirs.write(&after, &with_document(&new)).unwrap();
    drop((ours_held, their_held));
    let end = format!("DELETE,ISDIR {before}");
    until("the end of the old folder", SOON, || ours_seen[0].1.has_seen(&end)).await.unwrap();
    for (ours, theirs) in ours_seen.iter_mut().zip(&mut their_seen) {
        let name = ours.0;
        let expected = ordered(name, theirs.1.seen().unwrap());
        assert!(!expected.is_empty());
        let is_all = || ours.1.seen().is_ok_and(|seen| seen.len() >= expected.len());
        let _compared_below: Result<(), _> = until("all events", SOON, is_all).await;
        assert_eq!(ordered(name, ours.1.seen().unwrap()), expected, "a watch on {name:?}");
    }
    story.end().await.unwrap();
}

/// Waits for the next events of an inotify that blocks, and gives their bits and names.
fn next(inotify: &mut Inotify) -> Vec<(EventMask, String)> {
    let mut buffer = [0; 4096];
    let events = inotify.read_events_blocking(&mut buffer).unwrap();
    events.map(|e| (e.mask, e.name.unwrap_or_default().to_string_lossy().into_owned())).collect()
}

/// As programs with Go's fsnotify do that watch one file: read it after each event, and watch it
/// again when it was removed or renamed.
fn watch_the_file(path: &Path, read: &mpsc::Sender<String>) {
    let mut inotify = Inotify::init().unwrap();
    let mask = WatchMask::MODIFY
        | WatchMask::ATTRIB
        | WatchMask::CREATE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF;
    inotify.watches().add(path, mask).unwrap();
    loop {
        for (event, _) in next(&mut inotify) {
            if event.intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF)
                && inotify.watches().add(path, mask).is_err()
            {
                return;
            }
            // the first failure ends it, and is missed
            let Ok(text) = fs::read_to_string(path) else { return };
            if read.send(text).is_err() {
                return;
            }
        }
    }
}

/// As viper's `WatchConfig`: watch the folder, and read the file when it leads elsewhere.
fn watch_the_folder(path: &Path, read: &mpsc::Sender<String>) {
    let mut inotify = Inotify::init().unwrap();
    let mask = WatchMask::CREATE
        | WatchMask::MODIFY
        | WatchMask::ATTRIB
        | WatchMask::DELETE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM;
    inotify.watches().add(path.parent().unwrap(), mask).unwrap();
    let file = path.file_name().unwrap().to_str().unwrap();
    let mut target = path.canonicalize().unwrap();
    loop {
        for (event, name) in next(&mut inotify) {
            let Ok(current) = path.canonicalize() else { return };
            let is_written = event.intersects(EventMask::CREATE | EventMask::MODIFY);
            if (name == file && is_written) || current != target {
                target = current;
                let Ok(text) = fs::read_to_string(path) else { return };
                if read.send(text).is_err() {
                    return;
                }
            } else if name == file && event.contains(EventMask::DELETE) {
                return;
            }
        }
    }
}

/// GNU's, which looks every tenth of a second, as the file is a symlink.
fn tail(path: &Path, read: &mpsc::Sender<String>) -> std::process::Child {
    let mut tail = Command::new("tail")
        .args(["-F", "-s", "0.1", "-n", "+1"])
        .arg(path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (lines, read) = (BufReader::new(tail.stdout.take().unwrap()).lines(), read.clone());
    std::thread::spawn(move || {
        lines.map_while(Result::ok).try_for_each(|line| read.send(line)).ok();
    });
    tail
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_watch_the_file_or_its_folder_read_each_version() {
    const ROTATIONS: u32 = 10;
    let story = story::start().await.unwrap();
    let operator = Operator::of(&story);
    let put = async |number: u32| {
        let document = format!("{{\"config\":\"version {number}\\n\"}}");
        operator.put("web", "default", document.as_bytes()).await.unwrap();
    };
    put(0).await;
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    let path = pod.path().join("config");
    let mut readers = Vec::new();
    for watch in [watch_the_file, watch_the_folder] {
        let (sender, reader) = mpsc::channel();
        let path = path.clone();
        std::thread::spawn(move || watch(&path, &sender));
        readers.push(reader);
    }
    let (sender, reader) = mpsc::channel();
    let mut tail = tail(&path, &sender);
    assert_eq!(reader.recv_timeout(SOON).unwrap(), "version 0");
    readers.push(reader);
    // the threads have begun to watch when they hear of a version
    for number in 1..=ROTATIONS {
        put(number).await;
        let expected = format!("version {number}");
        for reader in &readers {
            let deadline = Instant::now() + SOON;
            loop {
                let wait = deadline.saturating_duration_since(Instant::now());
                let Ok(read) = reader.recv_timeout(wait) else {
                    // a first rotation before the watch was there
                    assert_eq!(number, 1, "a watcher has not read {expected}");
                    break;
                };
                if read.trim_end() == expected {
                    break;
                }
            }
        }
    }
    tail.kill().unwrap();
    tail.wait().unwrap();
    story.end().await.unwrap();
}
