//! What may be said, and how what may not is refused.

use serde_json::Value;

use crate::support::{CHART, container, env, refusal, render};

/// Refused before the registry is asked for.
#[track_caller]
fn refused(set: &str) -> String {
    refusal(&["image.registry=r", set])
}

#[test]
fn the_registry_is_required_by_a_sentence() {
    let said = refusal(&[]);
    assert!(said.contains("image.registry must be set: the registry that"), "{said}");
}

#[test]
fn unknown_values_are_refused_at_every_level() {
    for set in [
        "foo=1",
        "image.foo=1",
        "custody.foo=1",
        "workloadIdentity.foo=1",
        "safe.foo=1",
        "safe.data.foo=1",
        "safe.resources.foo=1",
        "sentinel.foo=1",
        "node.foo=1",
        "node.csi.foo=1",
        "node.agent.foo=1",
        "keeper.foo=1",
        "networkPolicy.foo=1",
        "openshift.foo=1",
        "spire.foo=1",
        "spire.server.foo=1",
        "spire.server.data.foo=1",
        "spire.controllerManager.foo=1",
        "spire.agent.foo=1",
        "spire.agent.kubelet.foo=1",
        "volumeDefaults.foo=1",
        "volumeEnforced.foo=1",
    ] {
        let said = refused(set);
        assert!(said.contains("'foo' not allowed"), "{set}: {said}");
    }
}

#[test]
fn values_that_cannot_work_are_refused() {
    for set in [
        "kubeletDir=relative",
        "kubeletDir=/ends/in/",
        "trustDomain=Upper.Case",
        "spire.workloadSocket=tcp",
        "spire.server.svidTTL=soon",
        "spire.agent.kubelet.verification=perhaps",
        "node.holdSeconds=120",
        "node.maxStaleSeconds=-1",
        "node.maxStaleSeconds=1h",
        "image.pullPolicy=Sometimes",
        "image.digests.vsecm-safe=latest",
        "safe.data.size=big",
        "safe.data.accessMode=ReadWriteMany",
        "volumeDefaults.layout=canary",
        "volumeEnforced.mode=rw",
        // what would break out of its place in a manifest or a configuration
        "trustDomain=a\"b",
        "trustDomain=a\nb",
        "kubeletDir=/a\"b",
        "kubeletDir=/a b",
        "node.namespace=a b",
        "spire.className=a: b",
        "spire.adminSocketName=a\"b",
        "spire.agent.image=a\nb",
        "safe.priorityClassName=a: b",
        "image.pullSecrets={a b}",
        // what the kubelet would refuse only on each node
        "image.registry=https://registry.example.com",
        "image.registry=registry.example.com/",
        "image.tag=a b",
    ] {
        refused(set);
    }
}

#[test]
fn text_that_looks_like_a_number_stays_text() {
    // a namespace may be called 1e3, a cluster true; and Helm takes 1000000 in a file for a float
    let rendered = render(&["node.namespace=1e3", "spire.className=0x1", "safe.env.NO=1000000"]);
    for object in rendered.all() {
        let namespace = &object["metadata"]["namespace"];
        assert!(namespace.is_null() || namespace.is_string(), "{}", object["metadata"]);
    }
    let identity = rendered.get("ClusterSPIFFEID", "vsecm-node");
    assert_eq!(identity["spec"]["className"], "0x1");
    let named =
        &identity["spec"]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"];
    assert_eq!(named, "1e3");
    assert_eq!(env(container(rendered.pod("StatefulSet", "vsecm-safe"), "safe"), "NO"), "1000000");
}

/// Objects of the schema that take any key.
fn open<'a>(path: &str, schema: &'a Value, found: &mut Vec<(String, &'a Value)>) {
    if schema["properties"].is_object() && schema["additionalProperties"] != false {
        found.push((path.to_owned(), schema));
    }
    if let Some(children) = schema.as_object() {
        for (name, child) in children {
            open(&format!("{path}/{name}"), child, found);
        }
    }
}

#[test]
fn the_schema_is_closed() {
    let schema = std::fs::read_to_string(format!("{CHART}/values.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let mut found = Vec::new();
    open("", &schema, &mut found);
    assert!(found.is_empty(), "{found:?}");
}

/// Paths of all leaves.
fn leaves(path: &str, values: &Value, found: &mut Vec<String>) {
    match values.as_object() {
        Some(children) if !children.is_empty() => {
            for (name, child) in children {
                leaves(&format!("{path}/properties/{name}"), child, found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}

#[test]
fn every_default_is_in_the_schema() {
    let values = std::fs::read_to_string(format!("{CHART}/values.yaml")).unwrap();
    let mut values: Value = serde_saphyr::from_str(&values).unwrap();
    for pointer in ["/safe", "/sentinel", "/keeper", "/node/csi", "/node/agent"] {
        values.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove("resources");
    }
    for part in ["server", "controllerManager", "agent"] {
        values["spire"][part].as_object_mut().unwrap().remove("resources");
    }
    let schema = std::fs::read_to_string(format!("{CHART}/values.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let mut paths = Vec::new();
    leaves("", &values, &mut paths);
    for path in paths {
        assert!(schema.pointer(&path).is_some(), "{path}");
    }
}
