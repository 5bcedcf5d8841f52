//! A pod, as its author writes it.

use std::{collections::BTreeMap, env};

use serde_json::{Value, json};

use super::container::{Container, VOLUME_NAME};

/// busybox.
pub(super) fn image() -> String {
    env::var("VSECM_E2E_BUSYBOX").unwrap_or_else(|_unset| "registry.local/busybox:1.35".to_owned())
}

pub(super) fn pull_policy() -> String {
    env::var("VSECM_E2E_PULL_POLICY").unwrap_or_else(|_unset| "IfNotPresent".to_owned())
}

/// A pod with a volume of ours, that passes Pod Security `restricted`.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(super) name: String,
    labels: BTreeMap<String, String>,
    node: Option<String>,
    attributes: BTreeMap<String, String>,
    security: Value,
    init: Vec<Container>,
    containers: Vec<Container>,
    has_volume: bool,
    secrets: Vec<(String, String)>,
}

impl Pod {
    /// A pod of the workload of the same name, whose container `main` does nothing.
    pub(crate) fn of(workload: &str) -> Self {
        Self::unlabelled(workload).label("vsecm.com/workload", workload)
    }

    /// A pod that belongs to no workload.
    pub(crate) fn unlabelled(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            labels: BTreeMap::new(),
            node: None,
            attributes: BTreeMap::new(),
            security: json!({
                "runAsUser": 1000,
                "runAsGroup": 1000,
                "runAsNonRoot": true,
                "seccompProfile": { "type": "RuntimeDefault" }
            }),
            init: Vec::new(),
            containers: vec![Container::idle("main")],
            has_volume: true,
            secrets: Vec::new(),
        }
    }

    /// Under another name than its workload's.
    #[must_use]
    pub(crate) fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    #[must_use]
    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// On this node, past the scheduler.
    #[must_use]
    pub(crate) fn on(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }

    /// With a `volumeAttribute`.
    #[must_use]
    pub(crate) fn attribute(mut self, key: &str, value: &str) -> Self {
        self.attributes.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With something in the pod's security context.
    #[must_use]
    pub(crate) fn security(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.security[key] = value.into();
        self
    }

    #[must_use]
    pub(crate) fn fs_group(self, group: u32) -> Self {
        self.security("fsGroup", group)
    }

    /// With these containers.
    #[must_use]
    pub(crate) fn containers(mut self, containers: impl IntoIterator<Item = Container>) -> Self {
        self.containers = containers.into_iter().collect();
        self
    }

    #[must_use]
    pub(crate) fn init(mut self, container: Container) -> Self {
        self.init.push(container);
        self
    }

    /// Without a volume of ours.
    #[must_use]
    pub(crate) fn without_volume(mut self) -> Self {
        self.has_volume = false;
        self.containers = self.containers.into_iter().map(Container::without_volume).collect();
        self
    }

    /// Also with a volume of a Secret of Kubernetes.
    #[must_use]
    pub(crate) fn secret_volume(mut self, name: &str, secret: &str) -> Self {
        self.secrets.push((name.to_owned(), secret.to_owned()));
        self
    }

    /// The manifest.
    pub(crate) fn manifest(&self) -> Value {
        let mut volumes = vec![json!({ "name": "state", "emptyDir": {} })];
        if self.has_volume {
            let mut source = json!({ "driver": "csi.vsecm.com", "readOnly": true });
            if !self.attributes.is_empty() {
                source["volumeAttributes"] = json!(self.attributes);
            }
            volumes.push(json!({ "name": VOLUME_NAME, "csi": source }));
        }
        volumes.extend(
            self.secrets
                .iter()
                .map(|(name, secret)| json!({ "name": name, "secret": { "secretName": secret } })),
        );
        let list = |of: &[Container]| of.iter().map(Container::manifest).collect::<Vec<_>>();
        let mut spec = json!({
            "serviceAccountName": "default",
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 2,
            "securityContext": self.security,
            "initContainers": list(&self.init),
            "containers": list(&self.containers),
            "volumes": volumes
        });
        if let Some(node) = &self.node {
            spec["nodeName"] = json!(node);
        }
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": self.name, "labels": self.labels },
            "spec": spec
        })
    }
}
