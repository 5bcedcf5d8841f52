//! Uninstalling: what asks first, what stays, what goes.

use serde_json::json;

use crate::support::{container, render, text};

const HOOK: &str = "helm.sh/hook";
const DELETED: &str = "helm.sh/hook-delete-policy";

#[test]
fn uninstalling_asks_for_volumes_in_use_first() {
    let rendered = render(&[]);
    let annotations = &rendered.get("Job", "vsecm-uninstall")["metadata"]["annotations"];
    assert_eq!(annotations[HOOK], "pre-delete");
    assert_eq!(annotations[DELETED], "before-hook-creation,hook-succeeded");
    // Helm leaves the hooks that went before a refusal: what the Job needs is none
    for kind in ["ServiceAccount", "ClusterRole", "ClusterRoleBinding"] {
        let metadata = &rendered.get(kind, "vsecm-uninstall")["metadata"];
        assert!(metadata["annotations"].is_null(), "{kind}");
    }
    let one = container(rendered.pod("Job", "vsecm-uninstall"), "volumes-in-use");
    assert_eq!(one["args"], json!(["volumes-in-use"]));
    let rules = &rendered.get("ClusterRole", "vsecm-uninstall")["rules"];
    assert_eq!(rules, &json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]));
    let job = &rendered.get("Job", "vsecm-uninstall")["spec"];
    assert_eq!(job["backoffLimit"], 0);
    assert!(job["ttlSecondsAfterFinished"].is_number());
}

#[test]
fn records_and_root_key_survive_unless_they_are_to_be_purged() {
    let policy = |rendered: &crate::support::Rendered, name| {
        let spec = &rendered.get("StatefulSet", name)["spec"];
        text(&spec["persistentVolumeClaimRetentionPolicy"]["whenDeleted"]).to_owned()
    };
    let rendered = render(&[]);
    assert_eq!(policy(&rendered, "vsecm-safe"), "Retain");
    assert_eq!(policy(&rendered, "spire-server"), "Retain");
    assert!(rendered.find("Secret", "vsecm-root-key").is_none());

    let rendered = render(&["purge=true"]);
    assert_eq!(policy(&rendered, "vsecm-safe"), "Delete");
    assert_eq!(policy(&rendered, "spire-server"), "Delete");
    let tombstone = rendered.get("Secret", "vsecm-root-key");
    assert_eq!(tombstone["metadata"]["annotations"][HOOK], "post-delete");
    assert_eq!(
        tombstone["metadata"]["annotations"][DELETED],
        "before-hook-creation,hook-succeeded"
    );
    assert!(tombstone["data"].is_null() && tombstone["stringData"].is_null());
}
