//! Storage of the project's own cluster: folders of the nodes, which nobody cleans or gives back.

use serde_json::json;

use super::{
    kubectl::{Kubectl, text},
    node::Node,
};

/// Empties the volumes whose claims were deleted, and gives them back to claims of the same names.
#[track_caller]
pub(crate) fn recycle(nodes: &[Node]) {
    let cluster = Kubectl::cluster();
    for volume in cluster.list("persistentvolumes", "") {
        let Some(path) = volume["spec"]["local"]["path"].as_str() else { continue };
        if volume["status"]["phase"] != "Released" {
            continue;
        }
        assert!(path.starts_with("/var/lib/vsecm-volumes/"), "{path} is not the cluster's");
        let terms = &volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0];
        let on = &terms["matchExpressions"][0]["values"][0];
        let node = nodes.iter().find(|node| *on == *node.name()).expect("the volume's node");
        node.exec(&["find", path, "-mindepth", "1", "-delete"]).ok();
        let forget = ["uid", "resourceVersion"]
            .map(|part| json!({ "op": "remove", "path": format!("/spec/claimRef/{part}") }));
        let (name, forget) = (text(&volume["metadata"]["name"]), json!(forget).to_string());
        cluster.run(["patch", "pv", &name, "--type=json", "--patch", &forget]).ok();
    }
}
