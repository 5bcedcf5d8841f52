//! Helm, for the one release of the suite.

use std::{env, time::Duration};

use serde_json::Value;

use super::program::{Output, Program};

/// The release.
pub(crate) const RELEASE: &str = "vsecm";

/// Its namespace.
pub(crate) const SYSTEM: &str = "vsecm-system";

/// How long an installation may take: images are there, so it is SPIRE's first start that counts.
const LIMIT: Duration = Duration::from_mins(5);

fn chart() -> String {
    format!("{}/../charts/vsecm", env!("CARGO_MANIFEST_DIR"))
}

fn values() -> String {
    let own = format!("{}/cluster/values-e2e.yaml", env!("CARGO_MANIFEST_DIR"));
    env::var("VSECM_E2E_VALUES").unwrap_or(own)
}

/// `name=default` of the environment.
fn setting(name: &str, default: &str) -> String {
    env::var(name).unwrap_or_else(|_unset| default.to_owned())
}

fn helm(verb: &str) -> Program {
    Program::new("helm").args([verb, RELEASE]).args(["--namespace", SYSTEM]).within(LIMIT)
}

fn with_values(program: Program, sets: &[&str]) -> Program {
    let registry = format!("image.registry={}", setting("VSECM_E2E_REGISTRY", "registry.local"));
    let tag = format!("image.tag={}", setting("VSECM_E2E_TAG", "e2e"));
    let program = program.args([&chart(), "--values", &values()]);
    let program = program.args(["--set-string", &registry, "--set-string", &tag]);
    let program = sets.iter().fold(program, |program, set| program.args(["--set", set]));
    program.args(["--wait", "--timeout", "4m"])
}

/// `helm install`, with values of the story's own.
#[track_caller]
pub(crate) fn install(sets: &[&str]) -> Output {
    with_values(helm("install").arg("--create-namespace"), sets).run()
}

/// `helm upgrade`, with values of the story's own.
#[track_caller]
pub(crate) fn upgrade(sets: &[&str]) -> Output {
    with_values(helm("upgrade"), sets).run()
}

/// `helm upgrade --install` that waits for nothing: for values that cannot work.
#[track_caller]
pub(crate) fn put(sets: &[&str]) -> Output {
    let program = helm("upgrade").args(["--install", "--create-namespace"]);
    with_values(program, sets).arg("--wait=false").run()
}

/// What `helm template` renders, with values of the story's own.
#[track_caller]
pub(crate) fn rendered(sets: &[&str]) -> Vec<Value> {
    let version = Program::new("kubectl").args(["version", "--output=json"]).run().ok();
    let version: Value = serde_json::from_str(&version).expect("kubectl prints JSON");
    // it asks no server, and its own guess is as old as its build says
    let version = super::kubectl::text(&version["serverVersion"]["gitVersion"]);
    let program = helm("template").args(["--kube-version", &version]);
    let yaml = with_values(program, sets).run().ok();
    // kubectl reads YAML, and asks no server for that
    let convert = ["create", "--dry-run=client", "--validate=false", "--output=json", "-f", "-"];
    let json = Program::new("kubectl").args(convert).stdin(yaml).run().ok();
    let objects = serde_json::Deserializer::from_str(&json).into_iter::<Value>();
    let objects: Vec<_> = objects.map(|object| object.expect("kubectl prints JSON")).collect();
    let lists = objects.iter().filter_map(|object| object["items"].as_array());
    let listed: Vec<_> = lists.flatten().cloned().collect();
    if listed.is_empty() { objects } else { listed }
}

/// `helm uninstall`.
#[track_caller]
pub(crate) fn uninstall(flags: &[&str]) -> Output {
    helm("uninstall").args(["--wait", "--timeout", "3m"]).args(flags).run()
}

/// What Helm says of the release; `None` without one.
#[track_caller]
pub(crate) fn status() -> Option<String> {
    let output = helm("status").args(["--output", "json"]).run();
    output.is_ok().then(|| {
        let json: Value = serde_json::from_str(&output.stdout).expect("helm's JSON");
        super::kubectl::text(&json["info"]["status"])
    })
}
