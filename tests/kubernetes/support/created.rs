//! A pod on the cluster.

use std::time::Duration;

use serde_json::Value;

use super::{
    awaiting,
    container::VOLUME,
    kubectl::{Kubectl, text},
    program::Output,
};

/// A pod that was created.
#[derive(Clone, Debug)]
pub(crate) struct Created {
    kubectl: Kubectl,
    namespace: String,
    name: String,
    uid: String,
}

impl Created {
    /// The pod of that name, if there is one.
    #[track_caller]
    pub(crate) fn look(namespace: &str, name: &str) -> Option<Self> {
        let kubectl = Kubectl::namespace(namespace);
        let object = kubectl.get("pod", name)?;
        let uid = text(&object["metadata"]["uid"]);
        Some(Self { kubectl, namespace: namespace.to_owned(), name: name.to_owned(), uid })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn uid(&self) -> &str {
        &self.uid
    }

    /// The object now; `None` when it has gone, also if another has its name.
    pub(crate) fn object(&self) -> Option<Value> {
        let object = self.kubectl.get("pod", &self.name);
        object.filter(|object| object["metadata"]["uid"] == *self.uid)
    }

    /// The node that it is on.
    #[track_caller]
    pub(crate) fn node(&self) -> String {
        awaiting::value("a node for the pod", awaiting::SOON, || {
            let object = self.object().ok_or("no pod")?;
            let node = text(&object["spec"]["nodeName"]);
            if node.is_empty() { Err("not scheduled".to_owned()) } else { Ok(node) }
        })
    }

    /// Waits until all its containers are ready.
    #[track_caller]
    pub(crate) fn ready(&self, within: Duration) {
        awaiting::value(&format!("pod {}/{}: Ready", self.namespace, self.name), within, || {
            let object = self.object().ok_or("no pod")?;
            if condition(&object, "Ready") == "True" { Ok(()) } else { Err(self.seen(&object)) }
        });
    }

    /// Waits until publishing its volume has failed with a sentence that has `part` in it, and
    /// gives that sentence.
    #[track_caller]
    pub(crate) fn waits_saying(&self, part: &str, within: Duration) -> String {
        let what = format!("pod {}/{}: an event with {part:?}", self.namespace, self.name);
        awaiting::value(&what, within, || {
            let events = self.kubectl.events(&self.uid, "FailedMount");
            let found = events.iter().rfind(|message| message.contains(part)).cloned();
            found.ok_or_else(|| events.last().cloned().unwrap_or_else(|| "no event".to_owned()))
        })
    }

    /// Whether any of its containers has ever started.
    pub(crate) fn has_started(&self) -> bool {
        let object = self.object().unwrap_or_default();
        let statuses = ["initContainerStatuses", "containerStatuses"];
        let statuses = statuses.iter().filter_map(|list| object["status"][list].as_array());
        statuses.flatten().any(|status| status["containerID"].is_string())
    }

    /// `kubectl describe pod`.
    #[track_caller]
    pub(crate) fn describe(&self) -> String {
        self.kubectl.describe("pod", &self.name)
    }

    /// Runs a command in a container.
    #[track_caller]
    pub(crate) fn exec(&self, container: &str, argv: &[&str]) -> Output {
        self.kubectl.exec(&self.name, Some(container), argv)
    }

    /// A file of the volume, read in the container `main`.
    #[track_caller]
    pub(crate) fn read(&self, file: &str) -> String {
        self.exec("main", &["cat", &format!("{VOLUME}/{file}")]).ok()
    }

    /// Waits until a file of the volume has this content.
    #[track_caller]
    pub(crate) fn comes_to_read(&self, file: &str, content: &str, within: Duration) {
        self.comes_to_read_in("main", &format!("{VOLUME}/{file}"), content, within);
    }

    /// Waits until a file has this content in a container.
    #[track_caller]
    pub(crate) fn comes_to_read_in(
        &self,
        container: &str,
        path: &str,
        content: &str,
        within: Duration,
    ) {
        awaiting::value(&format!("pod {}: new content of {path}", self.name), within, || {
            let output = self.exec(container, &["cat", path]);
            if output.stdout == content { Ok(()) } else { Err(output.tell()) }
        });
    }

    /// A container's log so far.
    #[track_caller]
    pub(crate) fn log(&self, container: &str) -> String {
        self.kubectl.logs(&self.name, container, super::kubectl::Run::Present).ok()
    }

    /// The same; empty while the container has not started.
    #[track_caller]
    pub(crate) fn try_log(&self, container: &str) -> String {
        self.kubectl.logs(&self.name, container, super::kubectl::Run::Present).stdout
    }

    fn status(&self, container: &str) -> Value {
        let object = self.object().unwrap_or_default();
        let statuses = object["status"]["containerStatuses"].as_array().cloned();
        let mut statuses = statuses.unwrap_or_default().into_iter();
        statuses.find(|status| status["name"] == container).unwrap_or_default()
    }

    /// The id of a container's present run.
    pub(crate) fn container_id(&self, container: &str) -> String {
        text(&self.status(container)["containerID"])
    }

    /// How often a container was started again.
    pub(crate) fn restarts(&self, container: &str) -> u64 {
        self.status(container)["restartCount"].as_u64().unwrap_or_default()
    }

    /// Deletes it and waits until it has gone from the API.
    #[track_caller]
    pub(crate) fn delete(&self, within: Duration) {
        self.kubectl.delete("pod", &self.name, within);
    }

    /// Deletes it without waiting.
    #[track_caller]
    pub(crate) fn begin_delete(&self) {
        self.kubectl.begin_delete("pod", &self.name);
    }

    /// What is worth knowing of a pod that is not as wanted.
    fn seen(&self, object: &Value) -> String {
        let status = &object["status"];
        let containers: Vec<_> = ["initContainerStatuses", "containerStatuses"]
            .iter()
            .filter_map(|list| status[list].as_array())
            .flatten()
            .map(|container| format!("{}: {}", container["name"], container["state"]))
            .collect();
        let events = self.kubectl.events(&self.uid, "FailedMount");
        let phase = text(&status["phase"]);
        format!(
            "{phase}; {}; {}",
            containers.join(", "),
            events.last().cloned().unwrap_or_default()
        )
    }
}

/// The status of a condition of an object.
pub(crate) fn condition(object: &Value, kind: &str) -> String {
    let conditions = object["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let found = conditions.find(|condition| condition["type"] == kind);
    found.map(|condition| text(&condition["status"])).unwrap_or_default()
}
