//! A hundred rotations a second, through everything but Safe and csi's process.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use super::*;

fn text(revision: u64) -> String {
    format!("{{\"a\":\"{}\"}}", format!("{revision:08}").repeat(1024))
}

/// Reads until it is told to stop: each version whole, and never an older one than before.
fn read(path: &std::path::Path, stop: &AtomicBool, reads: &AtomicU64) {
    let mut newest = 0;
    while !stop.load(Relaxed) {
        let text = fs::read_to_string(path).unwrap();
        let revision: u64 = text[..8].parse().unwrap();
        assert_eq!(text, format!("{revision:08}").repeat(1024), "torn");
        assert!(revision >= newest, "back from {newest} to {revision}");
        newest = revision;
        reads.fetch_add(1, Relaxed);
    }
}

fn folders(root: &std::path::Path) -> usize {
    let entries = fs::read_dir(root).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_dir()).count()
}

async fn rush(duration: Duration) {
    let (node, record) = (Node::new(), record());
    node.issue();
    node.say(said(1, &text(1))).await;
    assert_eq!(node.attach(&record, 1000).await, AgentReply::Ready);
    let mount = node.serving_volume(&record).await;
    let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let reader = {
        let (path, stop, reads) = (mount.path("a"), Arc::clone(&stop), Arc::clone(&reads));
        thread::spawn(move || read(&path, &stop, &reads))
    };
    let (other, key) = ("other".parse().unwrap(), said(1, "{}").key().clone());
    let watch = node.volumes.means.watches.join(&other, &key, None);
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    let (begun, mut revision, mut most) = (Instant::now(), 1, 0);
    while begun.elapsed() < duration {
        ticks.tick().await;
        revision += 1;
        watch.publish(said(revision, &text(revision))).await;
        most = most.max(node.kept_beside_notes());
    }
    let rate = (revision - 1) / begun.elapsed().as_secs().max(1);
    assert!(rate > 50, "the machine is too slow for this test: {rate} rotations a second");
    let root = mount.root().to_owned();
    let is_over = async {
        loop {
            let path = root.join("a");
            let (count, text) = tokio::task::spawn_blocking({
                let root = root.clone();
                move || (folders(&root), fs::read_to_string(path).unwrap())
            })
            .await
            .unwrap();
            if count == 1 && text.starts_with(&format!("{revision:08}")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(20), is_over).await.expect("old versions go after the grace");
    stop.store(true, Relaxed);
    reader.join().unwrap();
    let reads = reads.load(Relaxed);
    println!("{rate} rotations a second, {reads} reads; at the keeper {most} entries at most");
    // the volume and its word, what is shown and what is about to be, and what a busy machine has
    // not forgotten yet; of five hundred at least
    assert!(most < 100, "{most} entries at the keeper: its memory grows");
    assert!(reads > revision, "the reader hardly read");
}

#[test]
fn a_hundred_rotations_a_second_are_seen_whole_and_in_order_and_leave_nothing() {
    story(|| rush(Duration::from_secs(5)));
}

#[test]
#[ignore = "long: the same for a minute"]
fn a_hundred_rotations_a_second_for_a_minute_leave_nothing() {
    story(|| rush(Duration::from_mins(1)));
}
