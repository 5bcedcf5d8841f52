//! What each service account may do: all roles, word for word.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Rendered, list, render, text};

fn rules<'a>(rendered: &'a Rendered, kind: &str, name: &str) -> &'a Value {
    &rendered.get(kind, name)["rules"]
}

fn names(rendered: &Rendered, kind: &str) -> BTreeSet<String> {
    rendered.of(kind).map(|role| text(&role["metadata"]["name"]).to_owned()).collect()
}

#[test]
fn there_are_no_roles_but_these() {
    let rendered = render(&["spire.enabled=false"]);
    let roles = ["vsecm-node", "vsecm-safe", "vsecm-uninstall"].map(str::to_owned);
    assert_eq!(names(&rendered, "ClusterRole"), roles.into());
    assert_eq!(names(&rendered, "Role"), ["vsecm-secret-readwriter".to_owned()].into());
}

#[test]
fn safe_makes_secrets_and_reads_its_root_key_alone() {
    let rendered = render(&[]);
    let expected = json!([
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["vsecm-root-key"],
         "verbs": ["get", "update"]},
    ]);
    assert_eq!(rules(&rendered, "Role", "vsecm-secret-readwriter"), &expected);
    let reviews = json!([{"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"],
                          "verbs": ["create"]}]);
    assert_eq!(rules(&rendered, "ClusterRole", "vsecm-safe"), &reviews);
}

#[test]
fn the_node_agent_watches_its_driver_object_and_nothing_else() {
    let rendered = render(&[]);
    let expected = json!([{"apiGroups": ["storage.k8s.io"], "resources": ["csidrivers"],
                           "resourceNames": ["csi.vsecm.com"], "verbs": ["get", "list", "watch"]}]);
    assert_eq!(rules(&rendered, "ClusterRole", "vsecm-node"), &expected);
}

#[test]
fn spires_agents_may_not_exec_by_way_of_the_kubelet() {
    let resources = |sets: &[&str]| {
        rules(&render(sets), "ClusterRole", "vsecm-spire-agent")[0]["resources"].clone()
    };
    assert_eq!(resources(&[]), serde_json::json!(["nodes/pods"]));
    // kubelets before 1.33 ask for nothing finer
    let old = resources(&["spire.agent.kubelet.right=nodes/proxy"]);
    assert_eq!(old, serde_json::json!(["nodes/proxy"]));
}

#[test]
fn every_subject_is_an_account_of_this_release() {
    let rendered = render(&["node.startupTaint=true", "node.namespace=vsecm-nodes"]);
    for kind in ["RoleBinding", "ClusterRoleBinding"] {
        for binding in rendered.of(kind) {
            let [subject] = list(&binding["subjects"]) else { panic!("{binding}") };
            let account = rendered.get("ServiceAccount", text(&subject["name"]));
            assert_eq!(subject["namespace"], account["metadata"]["namespace"], "{binding}");
            let role = kind.trim_end_matches("Binding");
            assert_eq!(binding["roleRef"]["kind"], role);
            rendered.get(role, text(&binding["roleRef"]["name"]));
        }
    }
}

#[test]
fn sentinel_and_the_keeper_may_do_nothing() {
    let rendered = render(&[]);
    for kind in ["RoleBinding", "ClusterRoleBinding"] {
        for binding in rendered.of(kind) {
            let subject = text(&binding["subjects"][0]["name"]);
            assert!(!["vsecm-sentinel", "vsecm-keeper"].contains(&subject), "{binding}");
        }
    }
}
