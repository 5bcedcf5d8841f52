//! The installation that most stories share.

use std::{
    io::{self, Write},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde_json::Value;

use super::{
    awaiting,
    helm::{self, SYSTEM},
    kubectl::{Kubectl, text},
    node, secret,
};

/// The driver.
pub(crate) const DRIVER: &str = "csi.vsecm.com";

/// The workloads that `kubectl rollout` knows; keeper is replaced by hand.
const WORKLOADS: [&str; 3] =
    ["statefulset/vsecm-safe", "deployment/vsecm-sentinel", "daemonset/vsecm-node"];

/// Long enough for SPIRE's first start and the images' unpacking on two cores.
const ROLLOUT: Duration = Duration::from_mins(3);

/// Whether a story has failed since the release was installed.
static IS_SUSPECT: AtomicBool = AtomicBool::new(false);

/// A story has failed: what it leaves must not fail the next one too.
pub(crate) fn suspect() {
    IS_SUSPECT.store(true, Ordering::Relaxed);
}

/// Installs the release unless it is there, and waits until all is ready.
#[track_caller]
pub(crate) fn ensure() {
    let is_suspect = IS_SUSPECT.swap(false, Ordering::Relaxed);
    match helm::status().as_deref() {
        Some("deployed") if !is_suspect => {}
        None => {
            helm::install(&[]).ok();
        }
        Some(status) => {
            // past the test harness, which shows what a story prints only if it fails
            let sentence = format!(
                "REINSTALLING the release, which is {status}: a story before this one has failed\n"
            );
            io::stderr().write_all(sentence.as_bytes()).expect("stderr");
            helm::uninstall(&["--no-hooks"]).ok();
            helm::install(&[]).ok();
        }
    }
    ready();
}

/// Waits until every workload is ready, safe answers, and every node has the driver.
#[track_caller]
pub(crate) fn ready() {
    let system = Kubectl::namespace(SYSTEM);
    for workload in WORKLOADS {
        system.rolled_out(workload, ROLLOUT);
    }
    // a rollout is complete before the nodes know the new address
    awaiting::value("safe's answer to sentinel", ROLLOUT, || {
        let list = secret::safe(&["-l"], "");
        if list.is_ok() { Ok(()) } else { Err(list.tell()) }
    });
    let every = |object: &Value| {
        let status = &object["status"];
        let (wanted, ready) = (&status["desiredNumberScheduled"], &status["numberReady"]);
        if wanted != 0 && wanted == ready { Ok(()) } else { Err(status.to_string()) }
    };
    system.wait(("daemonset", "vsecm-keeper"), "ready on every node", ROLLOUT, every);
    for node in node::names() {
        registered(&node);
    }
}

/// Waits until a node's kubelet knows the driver.
#[track_caller]
pub(crate) fn registered(node: &str) {
    let cluster = Kubectl::cluster();
    let wanted = |object: &Value| {
        let drivers = object["spec"]["drivers"].as_array().cloned().unwrap_or_default();
        let known: Vec<_> = drivers.iter().map(|driver| text(&driver["name"])).collect();
        if known.iter().any(|name| name == DRIVER) { Ok(()) } else { Err(format!("{known:?}")) }
    };
    cluster.wait(("csinode", node), "the driver is registered", awaiting::SOON, wanted);
}

/// The pods of one of our workloads, on a node or anywhere.
#[track_caller]
pub(crate) fn pods(name: &str, node: Option<&str>) -> Vec<Value> {
    let selector = format!("app.kubernetes.io/name={name}");
    let mut pods = Kubectl::namespace(SYSTEM).list("pods", &selector);
    pods.retain(|pod| node.is_none_or(|node| pod["spec"]["nodeName"] == node));
    pods
}

/// The name of the one pod of a `DaemonSet` on a node.
#[track_caller]
pub(crate) fn pod_on(name: &str, node: &str) -> String {
    let pods = pods(name, Some(node));
    let [pod] = pods.as_slice() else { panic!("{} pods of {name} on {node}", pods.len()) };
    text(&pod["metadata"]["name"])
}
