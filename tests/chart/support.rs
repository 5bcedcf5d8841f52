//! `helm template`, and ways through what it renders.

use std::process::{Command, Output};

use serde_json::Value;

/// The release's namespace in these tests.
pub(crate) const SYSTEM: &str = "vsecm-system";

/// The folder of the chart.
pub(crate) const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/vsecm");

/// The workloads of the chart: kind and name.
pub(crate) const WORKLOADS: [(&str, &str); 6] = [
    ("StatefulSet", "vsecm-safe"),
    ("Deployment", "vsecm-sentinel"),
    ("DaemonSet", "vsecm-node"),
    ("DaemonSet", "vsecm-keeper"),
    ("StatefulSet", "spire-server"),
    ("DaemonSet", "spire-agent"),
];

/// `helm template` with values, each as `--set` takes it.
pub(crate) fn helm(sets: &[&str]) -> Output {
    let mut command = Command::new("helm");
    command.args(["template", "vsecm", CHART, "--namespace", SYSTEM]);
    // a Helm that is built from its module claims an ancient Kubernetes
    command.args(["--kube-version", "v1.34.0"]);
    for set in sets {
        command.args(["--set", set]);
    }
    command.output().unwrap_or_else(|error| panic!("helm cannot be run: {error}"))
}

/// What Helm says when it refuses these values.
#[track_caller]
pub(crate) fn refusal(sets: &[&str]) -> String {
    let output = helm(sets);
    assert!(!output.status.success(), "{sets:?} must be refused");
    String::from_utf8(output.stderr).unwrap()
}

/// Objects.
#[derive(Debug)]
pub(crate) struct Rendered(Vec<Value>);

/// All objects with these values, and with a registry.
#[track_caller]
pub(crate) fn render(sets: &[&str]) -> Rendered {
    let sets = [&["image.registry=registry.example.com/vsecm"], sets].concat();
    let output = helm(&sets);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let yaml = String::from_utf8(output.stdout).unwrap();
    Rendered(serde_saphyr::from_multiple(&yaml).unwrap())
}

impl Rendered {
    /// All objects.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Value> {
        self.0.iter()
    }

    /// The objects of a kind.
    pub(crate) fn of(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(move |object| object["kind"] == kind)
    }

    /// The object, if there is one.
    pub(crate) fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.of(kind).find(|object| object["metadata"]["name"] == name)
    }

    /// The object.
    #[track_caller]
    pub(crate) fn get(&self, kind: &str, name: &str) -> &Value {
        self.find(kind, name).unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    /// The pod's spec of a workload.
    #[track_caller]
    pub(crate) fn pod(&self, kind: &str, name: &str) -> &Value {
        &self.get(kind, name)["spec"]["template"]["spec"]
    }

    /// Kind, name and pod's spec of every workload, and of the hook.
    pub(crate) fn pods(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.all().filter_map(|object| {
            let pod = &object["spec"]["template"]["spec"];
            pod.is_object().then(|| (text(&object["metadata"]["name"]), pod))
        })
    }
}

/// The list, or nothing.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The string.
#[track_caller]
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string"))
}

/// The one of this name in a list.
#[track_caller]
pub(crate) fn named<'a>(objects: &'a Value, name: &str) -> &'a Value {
    let found = list(objects).iter().find(|object| object["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {objects}"))
}

/// All containers of a pod, also those that only prepare it.
pub(crate) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    list(&pod["initContainers"]).iter().chain(list(&pod["containers"]))
}

/// The container of this name.
#[track_caller]
pub(crate) fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let found = containers(pod).find(|container| container["name"] == name);
    found.unwrap_or_else(|| panic!("no container {name}"))
}

/// A variable's value.
#[track_caller]
pub(crate) fn env<'a>(container: &'a Value, name: &str) -> &'a str {
    text(&named(&container["env"], name)["value"])
}

/// Whether the variable is there.
pub(crate) fn has_env(container: &Value, name: &str) -> bool {
    list(&container["env"]).iter().any(|variable| variable["name"] == name)
}

/// The mount of this volume, if the container has it.
pub(crate) fn mount<'a>(container: &'a Value, volume: &str) -> Option<&'a Value> {
    list(&container["volumeMounts"]).iter().find(|mount| mount["name"] == volume)
}
