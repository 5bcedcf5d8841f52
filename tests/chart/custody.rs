//! Nodes that hold secrets, and those that use them.

use serde_json::json;

use crate::support::{WORKLOADS, render};

#[test]
fn custody_and_use_share_no_node() {
    let rendered =
        render(&["custody.nodeSelector.role=custody", "custody.nodeSelector.zone=inner"]);
    let labels = json!({"role": "custody", "zone": "inner"});
    for (kind, name) in WORKLOADS {
        let pod = rendered.pod(kind, name);
        let terms = &pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            ["nodeSelectorTerms"];
        match name {
            "vsecm-safe" | "vsecm-sentinel" | "spire-server" => {
                assert_eq!(pod["nodeSelector"], labels, "{name}");
            }
            "vsecm-node" | "vsecm-keeper" => {
                // terms are alternatives: one label that differs makes a node none of custody
                let other = |key: &str, value: &str| {
                    let differs = json!({"key": key, "operator": "NotIn", "values": [value]});
                    json!({"matchExpressions": [differs]})
                };
                let expected = json!([other("role", "custody"), other("zone", "inner")]);
                assert_eq!(terms, &expected, "{name}");
            }
            _ => assert!(pod["nodeSelector"].is_null() && terms.is_null(), "{name}"),
        }
    }
}

#[test]
fn without_custody_nodes_all_may_run_anywhere() {
    let rendered = render(&[]);
    for (kind, name) in WORKLOADS {
        let pod = rendered.pod(kind, name);
        assert!(pod["nodeSelector"].is_null() && pod["affinity"].is_null(), "{name}");
    }
}
