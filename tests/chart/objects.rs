//! The `CSIDriver` object, safe's data and root key, the budget for disruptions.

use serde_json::json;

use crate::support::{
    WORKLOADS, container, containers, env, list, mount, named, refusal, render, text,
};

#[test]
fn the_driver_is_what_the_node_agent_insists_on() {
    let rendered = render(&[]);
    let spec = &rendered.get("CSIDriver", "csi.vsecm.com")["spec"];
    let expected = json!({
        "attachRequired": false,
        "podInfoOnMount": true,
        "volumeLifecycleModes": ["Ephemeral"],
        "fsGroupPolicy": "None",
        "requiresRepublish": false,
        "seLinuxMount": false,
    });
    assert_eq!(spec, &expected);
}

#[test]
fn an_upgrade_replaces_a_pod_that_never_became_ready() {
    let rendered = render(&[]);
    for (name, set) in rendered.of("StatefulSet").map(|set| (&set["metadata"]["name"], set)) {
        assert_eq!(set["spec"]["podManagementPolicy"], "Parallel", "{name}");
    }
}

#[test]
fn safe_keeps_its_records_in_a_claim_by_default() {
    let rendered = render(&[]);
    let set = rendered.get("StatefulSet", "vsecm-safe");
    let claim = &set["spec"]["volumeClaimTemplates"][0];
    assert_eq!(claim["metadata"]["name"], "data");
    assert_eq!(claim["spec"]["accessModes"], json!(["ReadWriteOnce"]));
    assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "1Gi");
    assert_eq!(set["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"], "Retain");
    let safe = container(rendered.pod("StatefulSet", "vsecm-safe"), "safe");
    assert_eq!(mount(safe, "data").unwrap()["mountPath"], "/data");
    assert_eq!(env(safe, "VSECM_SAFE_DATA_PATH"), "/data");
}

#[test]
fn safe_keeps_its_records_in_memory_only_when_told_that_they_are_ephemeral() {
    let volatile = |sets: &[&str]| {
        let rendered = render(sets);
        let volumes = &rendered.pod("StatefulSet", "vsecm-safe")["volumes"];
        list(volumes).iter().any(|volume| volume["emptyDir"].is_object())
    };
    assert!(!volatile(&[]));
    assert!(!volatile(&["safe.data.hostPath=/var/local/vsecm/data"]));
    assert!(volatile(&["safe.data.ephemeral=true"]));
}

#[test]
fn a_folder_of_the_node_is_handed_over_to_safe() {
    let rendered = render(&["safe.data.hostPath=/var/local/vsecm/data"]);
    let set = rendered.get("StatefulSet", "vsecm-safe");
    assert!(set["spec"]["volumeClaimTemplates"].is_null());
    let pod = rendered.pod("StatefulSet", "vsecm-safe");
    let path = &named(&pod["volumes"], "data")["hostPath"]["path"];
    assert_eq!(path, "/var/local/vsecm/data");
    let args = json!(["prepare", "/data", "--owner", "61001:61001"]);
    assert_eq!(container(pod, "folder")["args"], args);
    let both = ["image.registry=r", "safe.data.hostPath=/a", "safe.data.ephemeral=true"];
    assert!(refusal(&both).contains("exclude each other"));
}

#[test]
fn the_root_key_is_mounted_where_it_is_and_never_rendered() {
    let rendered = render(&["openshift.enabled=true", "node.startupTaint=true"]);
    assert_eq!(rendered.of("Secret").count(), 0);
    let pod = rendered.pod("StatefulSet", "vsecm-safe");
    let secret = &named(&pod["volumes"], "key")["secret"];
    assert_eq!(secret["secretName"], "vsecm-root-key");
    assert_eq!(secret["optional"], true);
    assert_eq!(secret["items"], json!([{"key": "KEY_TXT", "path": "key.txt"}]));
    let safe = container(pod, "safe");
    assert_eq!(env(safe, "VSECM_ROOT_KEY_SECRET"), "vsecm-root-key");
    assert_eq!(env(safe, "VSECM_ROOT_KEY_PATH"), "/key/key.txt");
    assert_eq!(mount(safe, "key").unwrap()["mountPath"], "/key");
}

#[test]
fn no_other_pod_mounts_a_secret() {
    for (name, pod) in render(&[]).pods().filter(|(name, _)| *name != "vsecm-safe") {
        for volume in list(&pod["volumes"]) {
            assert!(volume["secret"].is_null(), "{name}: {}", volume["name"]);
        }
        for variable in containers(pod).flat_map(|c| list(&c["env"])) {
            assert!(variable["valueFrom"]["secretKeyRef"].is_null(), "{name}: {variable}");
        }
    }
}

#[test]
fn a_budget_exists_only_where_it_does_not_block_drains() {
    assert_eq!(render(&[]).of("PodDisruptionBudget").count(), 0);
    let rendered = render(&["sentinel.replicas=2"]);
    let budgets: Vec<_> =
        rendered.of("PodDisruptionBudget").map(|b| text(&b["metadata"]["name"])).collect();
    assert_eq!(budgets, ["vsecm-sentinel"]);
    assert!(refusal(&["image.registry=r", "safe.replicas=2"]).contains("safe"));
}

#[test]
fn images_are_the_registrys_by_tag_or_by_digest() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let rendered = render(&["image.tag=1.2.3", &format!("image.digests.vsecm-safe={digest}")]);
    let image = |kind, name, one| &container(rendered.pod(kind, name), one)["image"];
    let safe = format!("registry.example.com/vsecm/vsecm-safe@{digest}");
    assert_eq!(image("StatefulSet", "vsecm-safe", "safe"), &safe);
    let csi = "registry.example.com/vsecm/vsecm-csi:1.2.3";
    assert_eq!(image("DaemonSet", "vsecm-node", "csi"), csi);
}

#[test]
fn pods_are_found_by_the_same_labels_everywhere() {
    let rendered = render(&[]);
    for (kind, name) in WORKLOADS {
        let object = rendered.get(kind, name);
        let selector = &object["spec"]["selector"]["matchLabels"];
        let expected =
            json!({"app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "vsecm"});
        assert_eq!(selector, &expected);
        let labels = &object["spec"]["template"]["metadata"]["labels"];
        assert_eq!(labels["app.kubernetes.io/name"], name);
    }
}
