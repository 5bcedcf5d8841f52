//! Twenty rotations reach pods on every node; a watcher in the pod sees each, and no reader ever
//! sees one half.

use std::{fs, path::PathBuf};

use vsecm_tests::awaiting::Rotations;

use crate::support::{
    awaiting::SOON,
    container::{Container, VOLUME},
    created::Created,
    node::{self, processes_of},
    pod::Pod,
    reader,
    story::Story,
};

const STORY: &str = "s03_a_rotation_reaches_every_node";

const ROTATIONS: u32 = 20;

/// Every part of a document tells its number; neighbours differ in size.
fn document(number: u32) -> String {
    let filler = format!("{number:08}").repeat(100 * usize::try_from(1 + number % 7).unwrap());
    format!(r#"{{"first":"{number:08}","filler":"{filler}","last":"{number:08}"}}"#)
}

/// Shell code that is true if the document in `$v` is of one piece.
const WHOLE: &str = r#"a=${v#*first\":\"}; a=${a%%\"*}; z=${v##*last\":\"}; z=${z%%\"*}
f=${v#*filler\":\"}; f=${f%%\"*}; [ ${#a} = 8 ] && [ "$a" = "$z" ] && [ -n "$f" ] && [ -z "${f//$a/}" ]"#;

/// The volume as the pod's container sees it, from this machine.
fn volume(pod: &Created) -> PathBuf {
    let pids = processes_of(&pod.container_id("main"));
    let pid = pids.first().expect("the container runs");
    PathBuf::from(format!("/proc/{pid}/root{VOLUME}"))
}

#[tokio::test]
async fn twenty_rotations_reach_both_nodes_and_none_is_torn() {
    let story = Story::begin(STORY);
    let nodes = node::names();
    assert!(nodes.len() > 1, "this story needs two nodes");
    story.register("web", &document(0));
    let path = format!("{VOLUME}/secrets.json");
    let create = |node: &String| {
        let containers = [Container::idle("main"), reader::container("reader", &path, WHOLE)];
        let pod = Pod::of("web").named(&format!("web-{node}")).on(node).containers(containers);
        story.create(&pod)
    };
    let pods: Vec<_> = nodes.iter().map(create).collect();
    for pod in &pods {
        pod.ready(SOON);
    }
    let mut watchers = Vec::new();
    if node::all(STORY).is_some() {
        for pod in &pods {
            let volume = volume(pod);
            watchers.push((Rotations::watch(&volume).unwrap(), volume));
        }
    }
    let before: Vec<_> = pods.iter().map(|pod| reader::tally(pod, "reader", 0)).collect();

    for number in 1..=ROTATIONS {
        story.register("web", &document(number));
        for (rotations, volume) in &mut watchers {
            rotations.next(SOON).await.unwrap();
            let first = fs::read_to_string(volume.join("first")).unwrap();
            assert_eq!(first, format!("{number:08}"), "after the watcher was told");
        }
    }
    for (pod, before) in pods.iter().zip(before) {
        pod.comes_to_read("secrets.json", &document(ROTATIONS), SOON);
        let tally = reader::tally(pod, "reader", before.good + 100);
        assert!(tally.failures.is_empty(), "{}: {:?}", pod.name(), tally.failures);
    }
}
