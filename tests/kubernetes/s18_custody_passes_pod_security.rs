//! Safe and sentinel pass Pod Security `restricted` when SPIRE's socket comes by CSI: shown by a
//! server-side dry run in a namespace that enforces it.

use serde_json::{Value, json};

use crate::support::{helm, kubectl::Kubectl, program::Output, story::Story};

const ENFORCED: [(&str, &str); 1] = [("pod-security.kubernetes.io/enforce", "restricted")];

/// The pod that a workload of the chart makes, of the release as it would be with SPIFFE's driver.
fn pod_of(rendered: &[Value], kind: &str, name: &str) -> Value {
    let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    let object = rendered.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} {name}"));
    let template = &object["spec"]["template"];
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": template["metadata"]["labels"] },
        "spec": template["spec"]
    })
}

#[test]
fn safe_and_sentinel_pass_the_restricted_profile() {
    let story = Story::begin("s18_custody_passes_pod_security");
    let namespace = story.new_namespace("restricted", &ENFORCED);
    let kubectl = Kubectl::namespace(&namespace);
    let rendered = helm::rendered(&["spire.workloadSocket=csi"]);
    let try_run = |kind, name: &str| -> Output {
        let mut pod = pod_of(&rendered, kind, name);
        // claims of a StatefulSet become volumes only when it makes its pods
        let volumes = pod["spec"]["volumes"].as_array_mut().expect("volumes");
        volumes.push(json!({ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }));
        let mut seen = std::collections::BTreeSet::new();
        volumes.retain(|volume| seen.insert(volume["name"].to_string()));
        kubectl.apply(&json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name }
        }));
        kubectl.dry_run(&pod)
    };

    try_run("StatefulSet", "vsecm-safe").ok();
    try_run("Deployment", "vsecm-sentinel").ok();
    // the same run refuses what is privileged
    let refusal = try_run("DaemonSet", "vsecm-node").refused();
    assert!(refusal.contains("violates PodSecurity"), "{refusal}");
}
