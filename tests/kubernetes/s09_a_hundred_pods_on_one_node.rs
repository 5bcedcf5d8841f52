//! A hundred pods on one node: all become ready, each with its own secret's file.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{
    awaiting,
    created::{self, Created},
    kubectl::{Kubectl, text},
    node,
    part::{CSI, KEEPER, NODE_AGENT, Part, nothing_is_left_of},
    pod::Pod,
    story::Story,
};

const STORY: &str = "s09_a_hundred_pods_on_one_node";

const PODS: usize = 100;
const SECRETS: usize = 10;

/// Two cores start the containers of a hundred pods.
const STARTED: Duration = Duration::from_mins(4);

fn value(number: usize) -> String {
    format!("value {}", number % SECRETS)
}

/// KiB of a container's processes that are its own, and all that is mapped.
fn memory(part: Part, node: &str) -> (u64, u64) {
    let of = |line: &str, status: &str| {
        let found = status.lines().find_map(|l| l.strip_prefix(line));
        found.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    let pids = part.processes(Some(node));
    assert!(!pids.is_empty(), "{part:?} runs");
    let status = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let statuses: Vec<_> = pids.iter().map(status).collect();
    let sum = |line| statuses.iter().map(|status| of(line, status)).sum();
    (sum("RssAnon:"), sum("VmRSS:"))
}

#[test]
fn a_hundred_pods_on_one_node_become_ready() {
    let story = Story::begin(STORY);
    let Some(nodes) = node::all(STORY) else { return };
    let node = nodes.last().expect("a node").name();
    for number in 0..SECRETS {
        story.register(&format!("web-{number}"), &value(number));
    }
    let manifest = |number: usize| {
        let workload = format!("web-{}", number % SECRETS);
        Pod::of(&workload).named(&format!("pod-{number}")).on(node).manifest()
    };
    let list: Vec<_> = (0..PODS).map(manifest).collect();
    let kubectl = Kubectl::namespace(&story.namespace());
    let began = Instant::now();
    kubectl.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": list }));
    let is_ready = |pod: &&serde_json::Value| created::condition(pod, "Ready") == "True";
    awaiting::value("a hundred pods that are ready", STARTED, || {
        let ready = kubectl.list("pods", "").iter().filter(is_ready).count();
        if ready == PODS { Ok(()) } else { Err(format!("{ready}")) }
    });
    println!("{PODS} pods were ready after {:?}", began.elapsed());

    let objects = kubectl.list("pods", "");
    let look = |object: &serde_json::Value| {
        Created::look(&story.namespace(), &text(&object["metadata"]["name"]))
    };
    let pods: Vec<_> = objects.iter().filter_map(look).collect();
    for (number, pod) in pods.iter().enumerate().step_by(PODS / 10) {
        let number: usize = pod.name().trim_start_matches("pod-").parse().unwrap_or(number);
        assert_eq!(pod.read("secrets.json"), value(number), "{}", pod.name());
    }
    let mounts = nodes.last().expect("a node").our_mounts();
    for pod in &pods {
        assert!(mounts.iter().any(|line| line.contains(pod.uid())), "{}: no mount", pod.name());
    }
    for part in [NODE_AGENT, CSI, KEEPER] {
        let (own, mapped) = memory(part, node);
        println!("{}: {own} KiB of its own, {mapped} KiB with what is mapped", part.container);
    }

    let began = Instant::now();
    kubectl.run(["delete", "pods", "--all", "--wait=false"]).ok();
    nothing_is_left_of(&pods);
    println!("nothing was left of them after {:?}", began.elapsed());
}
