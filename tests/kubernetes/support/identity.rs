//! Identities that a story gives to its pods, beside or instead of those of the chart.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    awaiting::{self, SOON},
    created::Created,
    kubectl::{Kubectl, text},
    part::{NODE_AGENT, SPIRE_SERVER},
    story::Story,
};

const KIND: &str = "clusterspiffeid";

/// The label by which pods of a story get identities of its own.
pub(crate) const OWN: &str = "e2e.vsecm.com/own";

/// A template of a workload's identity, as the chart's own.
pub(crate) fn of_workload(name: &str) -> String {
    format!(
        "spiffe://{{{{ .TrustDomain }}}}/workload/{name}/ns/{{{{ .PodMeta.Namespace }}}}\
         /sa/{{{{ .PodSpec.ServiceAccountName }}}}/n/{{{{ .PodMeta.Name }}}}"
    )
}

/// The template of the identity that SPIFFE's chart gives to every pod.
pub(crate) fn of_service_account() -> String {
    "spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}/sa/{{ .PodSpec.ServiceAccountName }}"
        .to_owned()
}

/// A `ClusterSPIFFEID` for the pods of a story that have the label [`OWN`] with a value.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    name: String,
    manifest: Value,
}

impl Identity {
    /// One that goes with the story; it is not there yet.
    #[track_caller]
    pub(crate) fn new(story: &Story, own: &str, template: &str) -> Self {
        let namespace = story.namespace();
        let mut part = own.to_owned();
        part.retain(|c| c.is_ascii_alphanumeric());
        let digest = template.bytes().fold(0_u32, |sum, b| sum.wrapping_mul(31) + u32::from(b));
        let name = format!("{namespace}-{part}-{digest:x}");
        // the controller manager that cares for the chart's identities cares for these
        let chart = Kubectl::cluster().get(KIND, "vsecm-workload").expect("the chart's identity");
        let mut spec = json!({
            "hint": name,
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": namespace } },
            "podSelector": { "matchLabels": { OWN: own } },
            "spiffeIDTemplate": template
        });
        if chart["spec"]["className"].is_string() {
            spec["className"] = chart["spec"]["className"].clone();
        }
        let manifest = json!({
            "apiVersion": "spire.spiffe.io/v1alpha1",
            "kind": "ClusterSPIFFEID",
            "metadata": { "name": name },
            "spec": spec
        });
        let identity = Self { name, manifest };
        let last = identity.clone();
        story.at_the_end(move || last.withdraw());
        identity
    }

    /// One that lives this long.
    #[must_use]
    pub(crate) fn ttl(mut self, ttl: &str) -> Self {
        self.manifest["spec"]["ttl"] = json!(ttl);
        self
    }

    /// Gives it, from now on.
    #[track_caller]
    pub(crate) fn give(&self) {
        Kubectl::cluster().apply(&self.manifest);
    }

    /// Takes it away.
    #[track_caller]
    pub(crate) fn withdraw(&self) {
        Kubectl::cluster().delete(KIND, &self.name, SOON);
    }
}

/// How many identities a pod was given so far, one after the other, by node-agent's log. SPIRE's
/// agent gives the same one again whenever its trust bundle changes.
#[track_caller]
pub(crate) fn issued(pod: &Created) -> usize {
    let log = NODE_AGENT.pod(Some(&pod.node())).log(NODE_AGENT.container);
    let (name, namespace) =
        (format!("\"pod\":\"{}\"", pod.name()), format!("\"namespace\":\"{}\"", pod.namespace()));
    let is_it = |line: &&str| {
        line.contains("an identity was issued") && line.contains(&name) && line.contains(&namespace)
    };
    let identity = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("a line of the log is JSON");
        text(&line["identity"])
    };
    log.lines().filter(is_it).map(identity).collect::<BTreeSet<_>>().len()
}

/// Waits until a pod has had `count` more identities than `before`.
#[track_caller]
pub(crate) fn renewed(pod: &Created, before: usize, count: usize) {
    let what = format!("{count} more identities of pod {}", pod.name());
    let seen = || issued(pod);
    awaiting::until(&what, 2 * SOON, || seen() >= before + count, || seen().to_string());
}

/// The nodes' SPIRE agents, with the serial number of the certificate that each has for itself.
#[track_caller]
pub(crate) fn agents() -> BTreeMap<String, String> {
    let listed = server(&["agent", "list", "-output", "json"]);
    let listed = listed["agents"].as_array().cloned().unwrap_or_default();
    let nodes = Kubectl::cluster().list("nodes", "");
    let nodes = nodes.iter().map(|node| {
        let (name, uid) = (text(&node["metadata"]["name"]), text(&node["metadata"]["uid"]));
        // SPIRE's server also lists agents of nodes that have gone
        let agent = listed.iter().find(|agent| text(&agent["id"]["path"]).ends_with(&uid));
        let agent = agent.unwrap_or_else(|| panic!("{name} has no agent: {listed:?}"));
        (name, text(&agent["x509svid_serial_number"]))
    });
    nodes.collect()
}

/// Waits until each of these agents has another certificate.
#[track_caller]
pub(crate) fn agents_renewed(before: &BTreeMap<String, String>) {
    awaiting::value("another certificate of every SPIRE agent", SOON, || {
        let now = agents();
        let mut old = before.iter().filter(|(node, serial)| now.get(*node) == Some(*serial));
        if old.next().is_none() { Ok(()) } else { Err(format!("{now:?}")) }
    });
}

/// SPIFFE IDs of a pod's registration entries, as SPIRE's server has them.
#[track_caller]
pub(crate) fn registered(pod: &Created) -> Vec<String> {
    let selector = format!("k8s:pod-uid:{}", pod.uid());
    let shown = server(&["entry", "show", "-selector", &selector, "-output", "json"]);
    let entries = shown["entries"].as_array().cloned().unwrap_or_default();
    let mut ids: Vec<_> = entries.iter().map(|entry| text(&entry["spiffe_id"]["path"])).collect();
    ids.sort();
    ids
}

/// What SPIRE's server answers to a command of its own.
#[track_caller]
pub(crate) fn server(command: &[&str]) -> Value {
    let pod = SPIRE_SERVER.pod(None);
    let program = ["/opt/spire/bin/spire-server"];
    let socket = ["-socketPath", "/run/spire/server/api.sock"];
    let argv: Vec<_> = program.iter().chain(command).chain(&socket).copied().collect();
    let json = pod.exec(SPIRE_SERVER.container, &argv).ok();
    serde_json::from_str(&json).unwrap_or_else(|e| panic!("{command:?}: {e}: {json}"))
}
