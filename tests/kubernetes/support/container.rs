//! A container of a pod.

use serde_json::{Value, json};
pub(crate) use vsecm_tests::kubelet::request::VOLUME as VOLUME_NAME;

/// Where the volume is mounted.
pub(crate) const VOLUME: &str = "/vsecm";

/// An empty folder that every container has, for what must outlive it.
pub(crate) const STATE: &str = "/state";

/// Ends at once when it is told to, and never by itself.
const IDLE: &str = "while :; do sleep 3600 & wait $!; done";

/// A container of busybox.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    name: String,
    script: String,
    mounts: Vec<Value>,
}

impl Container {
    /// One that does nothing, with the volume at `/vsecm`.
    pub(crate) fn idle(name: &str) -> Self {
        Self::shell(name, IDLE)
    }

    /// One that runs a script, with the volume at `/vsecm`. The script ends on SIGTERM.
    pub(crate) fn shell(name: &str, script: &str) -> Self {
        let volume = json!({ "name": VOLUME_NAME, "mountPath": VOLUME, "readOnly": true });
        Self { name: name.to_owned(), script: script.to_owned(), mounts: vec![volume] }
    }

    /// Also with one path of the volume at `target`.
    #[must_use]
    pub(crate) fn sub_path(mut self, path: &str, target: &str) -> Self {
        self.mounts.push(json!({
            "name": VOLUME_NAME, "mountPath": target, "subPath": path, "readOnly": true
        }));
        self
    }

    /// Also with another volume of the pod.
    #[must_use]
    pub(crate) fn volume(mut self, name: &str, target: &str) -> Self {
        self.mounts.push(json!({ "name": name, "mountPath": target, "readOnly": true }));
        self
    }

    /// With this alone: no volume of ours.
    #[must_use]
    pub(crate) fn without_volume(mut self) -> Self {
        self.mounts.retain(|mount| mount["name"] != VOLUME_NAME);
        self
    }

    pub(super) fn manifest(&self) -> Value {
        let Self { name, script, mounts } = self;
        let state = json!({ "name": "state", "mountPath": STATE });
        let mounts: Vec<_> = mounts.iter().cloned().chain([state]).collect();
        json!({
            "name": name,
            "image": super::pod::image(),
            "imagePullPolicy": super::pod::pull_policy(),
            "command": ["/bin/sh", "-c", format!("trap 'exit 0' TERM\n{script}")],
            "volumeMounts": mounts,
            // Pod Security `restricted`
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] }
            }
        })
    }
}
