//! SPIFFE IDs, and the patterns by which they are known.

use serde_json::json;

use crate::support::{Rendered, container, env, list, render, text};

fn spec<'a>(rendered: &'a Rendered, name: &str) -> &'a serde_json::Value {
    &rendered.get("ClusterSPIFFEID", name)["spec"]
}

#[test]
fn each_id_of_a_pod_names_its_service_account_without_default() {
    let rendered = render(&[]);
    let ends =
        "/ns/{{ .PodMeta.Namespace }}/sa/{{ .PodSpec.ServiceAccountName }}/n/{{ .PodMeta.Name }}";
    for name in ["vsecm-safe", "vsecm-sentinel", "vsecm-workload"] {
        let template = text(&spec(&rendered, name)["spiffeIDTemplate"]);
        assert!(template.ends_with(ends), "{template}");
        assert!(!template.contains("default"), "{template}");
    }
    let agent = &spec(&rendered, "vsecm-node")["spiffeIDTemplate"];
    assert_eq!(agent, "spiffe://{{ .TrustDomain }}/vsecm-node-agent");
}

#[test]
fn an_identity_is_one_containers_of_one_service_account_in_one_namespace() {
    let rendered = render(&[]);
    for (name, one) in
        [("vsecm-safe", "safe"), ("vsecm-sentinel", "sentinel"), ("vsecm-node", "node-agent")]
    {
        let spec = spec(&rendered, name);
        let selectors = json!([
            "k8s:ns:vsecm-system",
            format!("k8s:sa:{name}"),
            format!("k8s:container-name:{one}"),
        ]);
        assert_eq!(spec["workloadSelectorTemplates"], selectors);
        let namespace = &spec["namespaceSelector"]["matchLabels"];
        assert_eq!(namespace, &json!({"kubernetes.io/metadata.name": "vsecm-system"}));
        assert_eq!(spec["podSelector"]["matchLabels"]["app.kubernetes.io/name"], name);
    }
}

#[test]
fn the_label_gives_a_name_that_is_not_ours_outside_of_the_system() {
    let rendered = render(&["node.namespace=vsecm-nodes"]);
    let spec = spec(&rendered, "vsecm-workload");
    let pods = json!({"matchExpressions": [{"key": "vsecm.com/workload", "operator": "Exists"}]});
    assert_eq!(spec["podSelector"], pods);
    let namespaces = &spec["namespaceSelector"]["matchExpressions"][0];
    assert_eq!(namespaces["operator"], "NotIn");
    for excluded in ["kube-system", "kube-public", "kube-node-lease", "vsecm-system", "vsecm-nodes"]
    {
        assert!(list(&namespaces["values"]).contains(&json!(excluded)), "{excluded}");
    }
    let template = text(&spec["spiffeIDTemplate"]);
    assert!(template.contains(r#"(eq (slice $name 0 6) "vsecm-")"#), "{template}");
    assert!(!template.contains('\n'), "{template}");
}

#[test]
fn identities_by_label_are_a_toggle() {
    let rendered = render(&["workloadIdentity.enabled=false"]);
    assert!(rendered.find("ClusterSPIFFEID", "vsecm-workload").is_none());
    let rendered = render(&["workloadIdentity.ttl=10m"]);
    assert_eq!(spec(&rendered, "vsecm-workload")["ttl"], "10m");
}

#[test]
fn the_class_is_that_of_the_controller_manager() {
    for (class, expected) in [("vsecm", json!("vsecm")), ("", json!(null))] {
        let rendered = render(&[&format!("spire.className={class}")]);
        for identity in rendered.of("ClusterSPIFFEID") {
            assert_eq!(identity["spec"]["className"], expected);
        }
        let config = &rendered.get("ConfigMap", "spire-server")["data"]["controller-manager.yaml"];
        let config: serde_json::Value = serde_saphyr::from_str(text(config)).unwrap();
        assert_eq!(config["className"], expected);
    }
}

#[test]
fn trust_domain_and_namespace_stand_in_every_pattern() {
    let rendered = render(&["trustDomain=example.org", "clusterDomain=corp.local"]);
    let pods = [
        ("StatefulSet", "vsecm-safe", "safe"),
        ("Deployment", "vsecm-sentinel", "sentinel"),
        ("DaemonSet", "vsecm-node", "node-agent"),
    ];
    let safe = "^spiffe://example.org/workload/vsecm-safe/ns/vsecm-system/sa/vsecm-safe/n/[^/]+$";
    for (kind, name, one) in pods {
        let one = container(rendered.pod(kind, name), one);
        assert_eq!(env(one, "SPIFFE_TRUST_DOMAIN"), "example.org");
        assert_eq!(env(one, "VSECM_SPIFFEID_PREFIX_SAFE"), safe);
        for variable in list(&one["env"]) {
            assert!(!variable.to_string().contains("spiffe://vsecm.com"), "{variable}");
        }
        if name != "vsecm-safe" {
            let url = "https://vsecm-safe.vsecm-system.svc.corp.local:8443/";
            assert_eq!(env(one, "VSECM_SAFE_ENDPOINT_URL"), url);
        }
    }
    let one = container(rendered.pod("StatefulSet", "vsecm-safe"), "safe");
    let sentinel =
        "^spiffe://example.org/workload/vsecm-sentinel/ns/vsecm-system/sa/vsecm-sentinel/n/[^/]+$";
    assert_eq!(env(one, "VSECM_SPIFFEID_PREFIX_SENTINEL"), sentinel);
    // the one that the node pods' own template makes
    let node_agent = "^spiffe://example.org/vsecm-node-agent$";
    assert_eq!(env(one, "VSECM_SPIFFEID_PREFIX_NODE_AGENT"), node_agent);
    let name = "^spiffe://example.org/workload/([^/]+)/ns/[^/]+/sa/[^/]+/n/[^/]+$";
    assert_eq!(env(one, "VSECM_WORKLOAD_NAME_REGEXP"), name);
}
