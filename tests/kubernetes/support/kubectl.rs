//! kubectl, with JSON between.

use std::time::Duration;

use serde_json::Value;

use super::{
    awaiting,
    program::{Output, Program},
};

/// kubectl for one namespace, or for what has none.
#[derive(Clone, Debug)]
pub(crate) struct Kubectl {
    namespace: Option<String>,
}

/// Which run of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Run {
    Present,
    Previous,
}

impl Kubectl {
    /// For what has no namespace.
    pub(crate) fn cluster() -> Self {
        Self { namespace: None }
    }

    pub(crate) fn namespace(namespace: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()) }
    }

    fn program(&self) -> Program {
        let program = Program::new("kubectl");
        match &self.namespace {
            Some(namespace) => program.args(["--namespace", namespace]),
            None => program,
        }
    }

    /// Any call.
    #[track_caller]
    pub(crate) fn run<T: AsRef<str>>(&self, args: impl IntoIterator<Item = T>) -> Output {
        self.program().args(args).run()
    }

    /// Applies a manifest.
    #[track_caller]
    pub(crate) fn apply(&self, manifest: &Value) {
        self.try_apply(manifest).ok();
    }

    /// Applies a manifest, perhaps in vain.
    #[track_caller]
    pub(crate) fn try_apply(&self, manifest: &Value) -> Output {
        self.program().args(["apply", "-f", "-"]).stdin(manifest.to_string()).run()
    }

    /// Applies a manifest as far as the server lets it be seen: nothing comes of it.
    #[track_caller]
    pub(crate) fn dry_run(&self, manifest: &Value) -> Output {
        let args = ["apply", "--dry-run=server", "-f", "-"];
        self.program().args(args).stdin(manifest.to_string()).run()
    }

    /// An object.
    #[track_caller]
    pub(crate) fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let args = ["get", kind, name, "--ignore-not-found", "--output=json"];
        let json = self.run(args).ok();
        (!json.trim().is_empty()).then(|| serde_json::from_str(&json).expect("kubectl prints JSON"))
    }

    /// All objects of a kind with the labels; an empty selector takes all.
    #[track_caller]
    pub(crate) fn list(&self, kind: &str, selector: &str) -> Vec<Value> {
        let json = self.run(["get", kind, "--selector", selector, "--output=json"]).ok();
        let mut list: Value = serde_json::from_str(&json).expect("kubectl prints JSON");
        let Value::Array(items) = list["items"].take() else { panic!("no list: {json}") };
        items
    }

    /// Deletes an object and waits until it has gone.
    #[track_caller]
    pub(crate) fn delete(&self, kind: &str, name: &str, within: Duration) {
        self.try_delete(kind, name, within).ok();
    }

    /// The same, perhaps in vain.
    #[track_caller]
    pub(crate) fn try_delete(&self, kind: &str, name: &str, within: Duration) -> Output {
        let timeout = format!("--timeout={}s", within.as_secs());
        let args = ["delete", kind, name, "--ignore-not-found", "--wait", &timeout];
        self.program().args(args).within(within + Duration::from_secs(10)).run()
    }

    /// Deletes an object without waiting.
    #[track_caller]
    pub(crate) fn begin_delete(&self, kind: &str, name: &str) {
        self.run(["delete", kind, name, "--wait=false"]).ok();
    }

    /// Runs a command in a container.
    #[track_caller]
    pub(crate) fn exec(&self, target: &str, container: Option<&str>, argv: &[&str]) -> Output {
        self.exec_with(target, container, argv, Vec::new())
    }

    /// Runs a command in a container, with its input.
    #[track_caller]
    pub(crate) fn exec_with(
        &self,
        target: &str,
        container: Option<&str>,
        argv: &[&str],
        stdin: Vec<u8>,
    ) -> Output {
        let program = self.program().args(["exec", "--stdin", target]);
        let program = match container {
            Some(container) => program.args(["--container", container]),
            None => program,
        };
        program.arg("--").args(argv).stdin(stdin).run()
    }

    /// A container's log.
    #[track_caller]
    pub(crate) fn logs(&self, pod: &str, container: &str, run: Run) -> Output {
        let previous = format!("--previous={}", run == Run::Previous);
        self.run(["logs", pod, "--container", container, &previous, "--tail=-1"])
    }

    /// `kubectl describe`.
    #[track_caller]
    pub(crate) fn describe(&self, kind: &str, name: &str) -> String {
        self.run(["describe", kind, name]).ok()
    }

    /// Messages of the events about a pod with a reason, the last one last.
    #[track_caller]
    pub(crate) fn events(&self, pod_uid: &str, reason: &str) -> Vec<String> {
        let field = format!("involvedObject.uid={pod_uid},reason={reason}");
        let args = ["get", "events", "--field-selector", &field, "--sort-by=.lastTimestamp"];
        let json = self.run(args.into_iter().chain(["--output=json"])).ok();
        let list: Value = serde_json::from_str(&json).expect("kubectl prints JSON");
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|event| text(&event["message"])).collect()
    }

    /// Whether somebody may do something: `kubectl auth can-i`.
    #[track_caller]
    pub(crate) fn can(&self, subject: &str, verb: &str, resource: &str) -> bool {
        let output = self.run(["auth", "can-i", verb, resource, "--as", subject]);
        // it also exits with 1 for "no"
        match output.stdout.trim() {
            "yes" => true,
            "no" => false,
            _ => panic!("{}", output.tell()),
        }
    }

    /// Waits until an object is as wanted; `wanted` fails with what it misses.
    #[track_caller]
    pub(crate) fn wait(
        &self,
        (kind, name): (&str, &str),
        what: &str,
        within: Duration,
        mut wanted: impl FnMut(&Value) -> Result<(), String>,
    ) -> Value {
        awaiting::value(&format!("{kind} {name}: {what}"), within, || {
            let object = self.get(kind, name).ok_or("it is not there")?;
            wanted(&object).map(|()| object)
        })
    }

    /// Waits until a rollout is complete.
    #[track_caller]
    pub(crate) fn rolled_out(&self, workload: &str, within: Duration) {
        let timeout = format!("--timeout={}s", within.as_secs());
        let args = ["rollout", "status", workload, &timeout];
        self.program().args(args).within(within + Duration::from_secs(10)).run().ok();
    }
}

/// The text of a JSON string; empty for anything else.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
