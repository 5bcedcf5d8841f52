//! Somebody is away for a while: SPIRE's server or agents, or safe.

use serde_json::{Value, json};

use super::{
    awaiting::{self, PATIENTLY, SOON},
    helm::SYSTEM,
    installation,
    kubectl::Kubectl,
    part::Part,
    story::Story,
};

/// A daemon of every node is sent to nodes with this label: there are none.
const NOWHERE: &str = "e2e.vsecm.com/nowhere";

fn workload(part: Part) -> String {
    let kind = match part.workload {
        "spire-agent" | "vsecm-node" | "vsecm-keeper" => "daemonset",
        "vsecm-sentinel" => "deployment",
        _ => "statefulset",
    };
    format!("{kind}/{}", part.workload)
}

fn patch(part: Part, replicas: u32) {
    let workload = workload(part);
    let change = if workload.starts_with("daemonset") {
        let value = if replicas == 0 { json!("") } else { Value::Null };
        json!({ "spec": { "template": { "spec": { "nodeSelector": { NOWHERE: value } } } } })
    } else {
        json!({ "spec": { "replicas": replicas } })
    };
    let args = ["patch", &workload, "--type=merge", "--patch", &change.to_string()];
    Kubectl::namespace(SYSTEM).run(args).ok();
}

/// Ends all of its pods, and waits until they have gone. At the story's end it is there again.
#[track_caller]
pub(crate) fn begins(story: &Story, part: Part) {
    story.at_the_end(move || ends(part));
    patch(part, 0);
    let pods = || installation::pods(part.workload, None);
    let what = format!("the end of {}", part.workload);
    awaiting::until(&what, SOON, || pods().is_empty(), || format!("{} pods", pods().len()));
}

/// Brings it back, if it is away, and waits until it is ready.
#[track_caller]
pub(crate) fn ends(part: Part) {
    patch(part, 1);
    Kubectl::namespace(SYSTEM).rolled_out(&workload(part), PATIENTLY);
}
