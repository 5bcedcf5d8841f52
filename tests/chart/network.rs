//! Who may speak to whom.

use serde_json::json;

use crate::support::{list, render, text};

#[test]
fn the_keeper_speaks_to_nobody() {
    let rendered = render(&[]);
    let spec = &rendered.get("NetworkPolicy", "vsecm-keeper")["spec"];
    assert_eq!(spec["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!((&spec["ingress"], &spec["egress"]), (&json!([]), &json!([])));
}

#[test]
fn safe_hears_sentinel_and_the_nodes() {
    let rendered = render(&[]);
    let spec = &rendered.get("NetworkPolicy", "vsecm-safe")["spec"];
    let [rule] = list(&spec["ingress"]) else { panic!("{spec}") };
    let peers: Vec<_> = list(&rule["from"])
        .iter()
        .map(|peer| text(&peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"]))
        .collect();
    assert_eq!(peers, ["vsecm-sentinel", "vsecm-node"]);
    assert_eq!(rule["ports"], json!([{"protocol": "TCP", "port": 8443}]));
}

#[test]
fn every_policy_has_both_directions() {
    let rendered = render(&[]);
    assert_eq!(rendered.of("NetworkPolicy").count(), 5);
    for policy in rendered.of("NetworkPolicy") {
        assert!(policy["spec"]["ingress"].is_array(), "{policy}");
        assert!(policy["spec"]["egress"].is_array(), "{policy}");
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    }
    for name in ["vsecm-sentinel", "vsecm-node"] {
        assert_eq!(rendered.get("NetworkPolicy", name)["spec"]["ingress"], json!([]), "{name}");
    }
}

#[test]
fn peers_can_be_added() {
    let rendered = render(&[
        "networkPolicy.safeFrom[0].namespaceSelector.matchLabels.team=shop",
        "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.team=watch",
    ]);
    let safe = &rendered.get("NetworkPolicy", "vsecm-safe")["spec"]["ingress"];
    assert_eq!(safe[0]["from"][2]["namespaceSelector"]["matchLabels"]["team"], "shop");
    for name in ["vsecm-safe", "vsecm-node"] {
        let ingress = &rendered.get("NetworkPolicy", name)["spec"]["ingress"];
        let metrics = list(ingress).last().unwrap();
        assert_eq!(metrics["ports"], json!([{"protocol": "TCP", "port": 8082}]), "{name}");
    }
}

#[test]
fn policies_are_a_toggle() {
    assert_eq!(render(&["networkPolicy.enabled=false"]).of("NetworkPolicy").count(), 0);
}
