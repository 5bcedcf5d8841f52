//! [I4]: readers hammer a volume while its secret is rotated a thousand times.

use std::{
    cell::Cell,
    fs,
    os::fd::AsFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::fs::{CWD, Mode, OFlags, openat};
use tokio::time::{MissedTickBehavior, interval};
use vsecm_tests::{
    Component, Playground, PodSpec,
    awaiting::{Rotations, until},
    story::{self, SOON},
};

use crate::support::{operator::Operator, reading::Hammers};

const ROTATIONS: u64 = 1000;

/// A document whose every part tells its number, of a size that differs from its neighbours'.
fn document(number: u64) -> String {
    let repeats = 1 + usize::try_from(number % 97).unwrap();
    let filler = format!("{number:08}").repeat(repeats * 20);
    format!(r#"{{"first":"{number:08}","filler":"{filler}","last":"{number:08}"}}"#)
}

fn number_in(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_number| format!("torn: {text:?}"))
}

fn read_at(folder: impl AsFd, name: &str) -> Result<String, String> {
    let file = openat(folder, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| format!("open {name}: {e}"))?;
    std::io::read_to_string(fs::File::from(file)).map_err(|e| format!("read {name}: {e}"))
}

/// One round of a reader: whole, of one version, and not older than what was published before it began.
fn strike(volume: &Path, published: &AtomicU64) -> Result<(), String> {
    let floor = published.load(Ordering::SeqCst);
    let whole = fs::read_to_string(volume.join("secrets.json")).map_err(|e| e.to_string())?;
    let number = number_in(whole.get(10..18).unwrap_or_default())?;
    if whole != document(number) {
        return Err(format!("torn: document {number}"));
    }
    // two keys of one version, as a careful reader takes them: the folder first
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let data =
        openat(CWD, volume.join("..data"), flags, Mode::empty()).map_err(|e| e.to_string())?;
    let (first, last) = (read_at(&data, "first"), read_at(&data, "last"));
    match (first, last) {
        (Ok(first), Ok(last)) if first == last => {
            let seen = number_in(&first)?.min(number);
            if seen < floor {
                return Err(format!("stale: {seen} after {floor} was published"));
            }
            Ok(())
        }
        (Ok(first), Ok(last)) => Err(format!("torn: {first} and {last}")),
        // the folder was retired between the two opens: a new walk gets the new version
        (first, last) => {
            let gone = |r: &Result<String, String>| {
                r.as_ref().err().is_none_or(|e| e.contains("No such file"))
            };
            if gone(&first) && gone(&last) {
                Ok(())
            } else {
                Err(format!("{first:?} and {last:?}"))
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_rotations_are_never_seen_torn_or_late() {
    let story = story::start().await.unwrap();
    let operator = Operator::of(&story);
    operator.put("web", "default", document(0).as_bytes()).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    let published = Arc::new(AtomicU64::new(0));
    let floor = Arc::clone(&published);
    let hammers = Hammers::start(3, pod.path(), move |volume| strike(volume, &floor));
    let mut rotations = Rotations::watch(pod.path()).unwrap();
    for number in 1..=ROTATIONS {
        operator.put("web", "default", document(number).as_bytes()).await.unwrap();
        rotations.next(SOON).await.unwrap();
        published.store(number, Ordering::SeqCst);
    }
    let rounds = hammers.stop().await;
    assert!(rounds > ROTATIONS, "the readers hardly read: {rounds}");
    story.end().await.unwrap();
}

/// Memory of node-agent's server, and the snapshots that it holds.
fn burden(story: &Playground) -> (usize, usize) {
    let pid = story.serving_pid(Component::NodeAgent).unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib = resident.trim().trim_end_matches(" kB").parse().unwrap();
    let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(Result::ok);
    let links = links.filter_map(|entry| fs::read_link(entry.path()).ok());
    (kib, links.filter(|link| link.to_string_lossy().starts_with("/memfd:")).count())
}

fn folders(volume: &Path) -> usize {
    let entries = fs::read_dir(volume).unwrap().filter_map(Result::ok);
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).count()
}

/// Rotates a secret 25 times a second; what the last number was.
async fn rotate_one(operator: Operator, name: String, duration: Duration) -> u64 {
    let mut ticks = interval(Duration::from_millis(40));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (begun, mut number) = (Instant::now(), 0);
    while begun.elapsed() < duration {
        ticks.tick().await;
        number += 1;
        operator.put(&name, "default", document(number).as_bytes()).await.unwrap();
    }
    number
}

/// A hundred rotations a second for a while, of four secrets: Safe writes each to its disk. Where
/// a swap takes longer than that, versions are left out, and never seen in another order.
async fn rotate_for(duration: Duration) {
    let story = story::start().await.unwrap();
    let operator = Operator::of(&story);
    let mut pods = Vec::new();
    for name in ["web-1", "web-2", "web-3", "web-4"] {
        operator.put(name, "default", document(0).as_bytes()).await.unwrap();
        let pod = story.create_pod(PodSpec::new(name)).unwrap();
        pod.ready(SOON).await.unwrap();
        pods.push(pod);
    }
    let strike = |last: Cell<u64>| {
        move |volume: &Path| {
            let whole =
                fs::read_to_string(volume.join("secrets.json")).map_err(|e| e.to_string())?;
            let number = number_in(whole.get(10..18).unwrap_or_default())?;
            if whole != document(number) {
                return Err(format!("torn: document {number}"));
            }
            let before = last.replace(number);
            if number < before { Err(format!("back from {before} to {number}")) } else { Ok(()) }
        }
    };
    let hammers: Vec<_> =
        pods.iter().map(|pod| Hammers::start(1, pod.path(), strike(Cell::new(0)))).collect();
    let begun = Instant::now();
    let rotating: Vec<_> = pods
        .iter()
        .map(|pod| {
            let name = pod.spec().name.clone();
            tokio::spawn(rotate_one(operator.clone(), name, duration))
        })
        .collect();
    tokio::time::sleep(duration / 2).await;
    let early = burden(&story);
    let mut numbers = Vec::new();
    for one in rotating {
        numbers.push(one.await.unwrap());
    }
    let (took, late) = (begun.elapsed(), burden(&story));
    let all: u64 = numbers.iter().sum();
    tracing::info!(all, ?took, ?early, ?late, "rotations; KiB and snapshots of node-agent");
    // what comes in two seconds may be in memory, and nothing older
    assert!(late.0 < early.0 + 8 * 1024, "memory grows: {early:?}, then {late:?} KiB, snapshots");
    let mut rounds = 0;
    for (pod, number) in pods.iter().zip(&numbers) {
        let expected = document(*number);
        let is_last = || {
            let text = fs::read_to_string(pod.path().join("secrets.json"));
            text.is_ok_and(|text| text == expected)
        };
        until("the last version", SOON, is_last).await.unwrap();
    }
    for hammers in hammers {
        rounds += hammers.stop().await;
    }
    assert!(rounds > all, "the readers hardly read: {rounds}");
    let is_over = || pods.iter().all(|pod| folders(pod.path()) == 1) && burden(&story).1 <= 12;
    until("the end of the old versions", SOON, is_over).await.unwrap();
    for pod in &pods {
        let shown = fs::read_link(pod.path().join("..data")).unwrap();
        for old in (all + 8).saturating_sub(400)..=all + 8 {
            let old = format!("..{old}");
            let is_there = pod.path().join(&old).exists();
            assert!(!is_there || shown == Path::new(&old), "{old} is still there by its name");
        }
    }
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_rotations_a_second_leave_nothing() {
    rotate_for(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: the same for a minute"]
async fn a_hundred_rotations_a_second_for_a_minute_leave_nothing() {
    rotate_for(Duration::from_mins(1)).await;
}
