//! A pod that is deleted while it waits: it goes from its node too, and nobody after it waits longer.

use std::time::{Duration, Instant};

use crate::support::{
    awaiting::{self, SOON},
    created::Created,
    metrics,
    node::{self, Node},
    pod::Pod,
    story::Story,
};

const STORY: &str = "s06_a_pod_deleted_while_waiting_leaves_nothing";

/// SPIRE withdraws an identity about 3 s after the pod is deleted, the kubelet sweeps every 2 s.
const AT_ONCE: Duration = Duration::from_secs(10);

/// Nobody tells of a pod without identity: its last publish call is held to its end, 110 s at most.
const HELD: Duration = Duration::from_mins(2);

/// The kubelet's folder of a pod goes last of all that it has on a node.
#[track_caller]
fn goes(pod: &Created, node: &Node, within: Duration) -> Duration {
    let began = Instant::now();
    awaiting::until(
        &format!("the end of pod {} on {}", pod.name(), node.name()),
        within,
        || {
            let pods = node.folder("/var/lib/kubelet/pods").expect("the kubelet's folder");
            !pods.iter().any(|uid| uid == pod.uid())
        },
        || node.exec(&["find", &format!("/var/lib/kubelet/pods/{}", pod.uid())]).stdout,
    );
    began.elapsed()
}

#[test]
fn a_waiting_pod_that_is_deleted_leaves_its_node() {
    let story = Story::begin(STORY);
    let Some(nodes) = node::all(STORY) else { return };
    let node = nodes.first().expect("a node");
    let known = story.create(&Pod::of("late").on(node.name()));
    let unknown = story.create(&Pod::unlabelled("nobody").on(node.name()));
    metrics::counts_waiting(node.name(), "not_registered", 1);
    metrics::counts_waiting(node.name(), "no_entry", 1);

    known.begin_delete();
    unknown.begin_delete();
    let took = goes(&known, node, AT_ONCE);
    println!("with an identity: gone from the node after {took:?}");

    story.register("late", "at last");
    for pod in [Pod::of("late"), Pod::of("late").named("nobody")] {
        // the predecessor's last call may still be held
        let successor = story.create(&pod.on(node.name()));
        successor.ready(SOON);
        assert_eq!(successor.read("secrets.json"), "at last");
    }
    let took = goes(&unknown, node, HELD);
    println!("without an identity: gone from the node after {took:?}");
    let left: Vec<_> = node.our_mounts();
    let is_left = |pod: &Created| left.iter().any(|line| line.contains(pod.uid()));
    assert!(!is_left(&known) && !is_left(&unknown), "mounts are left: {left:#?}");
}
