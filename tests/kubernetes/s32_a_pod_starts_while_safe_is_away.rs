//! The only pod of a Deployment goes while safe is away: its successor, which has another name,
//! starts from what the node holds, and gets what changed once safe is back.

use serde_json::json;

use crate::support::{
    awaiting::{self, PATIENTLY, SOON},
    created::Created,
    kubectl::text,
    metrics, node, outage,
    part::SAFE,
    pod::Pod,
    story::Story,
};

/// The pod of the Deployment that is not about to end, and is not that one.
#[track_caller]
fn pod(story: &Story, besides: Option<&Created>) -> Created {
    awaiting::value("a pod of the Deployment", SOON, || {
        let mut pods = story.kubectl().list("pod", "vsecm.com/workload=web");
        pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let names = pods.iter().map(|pod| text(&pod["metadata"]["name"]));
        let names: Vec<_> =
            names.filter(|name| besides.is_none_or(|old| old.name() != name)).collect();
        let [name] = names.as_slice() else { return Err(format!("{names:?}")) };
        Created::look(&story.namespace(), name).ok_or_else(|| format!("{name} has gone"))
    })
}

#[track_caller]
fn scale(story: &Story, replicas: u32) {
    let replicas = format!("--replicas={replicas}");
    story.kubectl().run(["scale", "deployment/web", &replicas]).ok();
}

#[test]
fn the_successor_of_the_only_pod_starts_on_its_node_and_a_rotation_arrives_afterwards() {
    let story = Story::begin("s32_a_pod_starts_while_safe_is_away");
    let node = node::names().pop().expect("a node");
    story.register("web", "first");
    let template = Pod::of("web").on(&node).manifest();
    let labels = &template["metadata"]["labels"];
    story.kubectl().apply(&json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": "web" },
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": template["spec"] }
        }
    }));
    let first = pod(&story, None);
    first.ready(SOON);

    outage::begins(&story, SAFE);
    first.delete(SOON);
    let second = pod(&story, Some(&first));
    second.ready(SOON);
    assert_ne!(second.name(), first.name());
    assert_eq!(second.node(), node);
    assert_eq!(second.read("secrets.json"), "first");
    metrics::counts_stale(&node, "unconfirmed", 1);

    // also if there was none for a moment
    scale(&story, 0);
    let gone = || story.kubectl().list("pod", "vsecm.com/workload=web");
    awaiting::until("the end of all pods", SOON, || gone().is_empty(), || second.describe());
    scale(&story, 1);
    let third = pod(&story, Some(&second));
    third.ready(SOON);
    assert_eq!(third.read("secrets.json"), "first");

    outage::ends(SAFE);
    metrics::counts_stale(&node, "unconfirmed", 0);
    story.register("web", "second");
    third.comes_to_read("secrets.json", "second", PATIENTLY);
}
