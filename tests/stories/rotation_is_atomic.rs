//! [I4]: readers hammer a volume while its secret is rotated a thousand times.

use std::{
    fs,
    os::fd::AsFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::fs::{CWD, Mode, OFlags, openat};
use vsecm_tests::{
    PodSpec,
    awaiting::Rotations,
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
