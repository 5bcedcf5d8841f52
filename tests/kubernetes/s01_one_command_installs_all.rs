//! One `helm install` on a cluster that has nothing: all pods become ready, every node knows the
//! driver, and the root key is readable by safe alone.

use std::io::Write as _;

use crate::support::{
    helm::{self, SYSTEM},
    installation,
    kubectl::Kubectl,
    node,
    story::Story,
};

/// Service accounts that have nothing to do with the root key, and should not read it.
const OTHERS: [&str; 8] = [
    "vsecm-sentinel",
    "vsecm-node",
    "vsecm-keeper",
    "vsecm-uninstall",
    "spire-server",
    "spire-agent",
    "default",
    "nobody-yet",
];

fn clear() {
    if helm::status().is_some() {
        let sentence = b"there is a release already: it is uninstalled first\n";
        std::io::stderr().write_all(sentence).expect("stderr");
        helm::uninstall(&["--no-hooks"]).ok();
    }
}

#[test]
fn one_helm_install_brings_everything() {
    let _story = Story::begin_bare("s01_one_command_installs_all");
    clear();
    helm::install(&[]).ok();
    installation::ready();

    let system = Kubectl::namespace(SYSTEM);
    let nodes = node::names();
    for daemon in ["vsecm-node", "vsecm-keeper"] {
        let pods = installation::pods(daemon, None);
        assert_eq!(pods.len(), nodes.len(), "{daemon}: one pod for each node");
    }
    for pod in system.list("pods", "app.kubernetes.io/part-of=vsecm") {
        let statuses = pod["status"]["containerStatuses"].as_array().expect("a pod that runs");
        for status in statuses {
            let container = format!("{} in {}", status["name"], pod["metadata"]["name"]);
            assert_eq!(status["ready"], true, "{container} is not ready");
            assert_eq!(status["restartCount"], 0, "{container} did not start at once");
        }
    }

    let subject = |name: &str| format!("system:serviceaccount:{SYSTEM}:{name}");
    let key = "secrets/vsecm-root-key";
    let managers = "--output=jsonpath={.metadata.managedFields[*].manager}";
    let shown = ["get", "secret", "vsecm-root-key", "--show-managed-fields", managers];
    assert_eq!(system.run(shown).ok(), "vsecm-safe", "who made the root key");
    assert!(system.can(&subject("vsecm-safe"), "get", key));
    for name in OTHERS {
        for verb in ["get", "list", "watch", "update", "patch", "delete"] {
            assert!(!system.can(&subject(name), verb, key), "{name} may {verb} the root key");
        }
    }
    let safe = subject("vsecm-safe");
    for (verb, resource) in [("list", "secrets"), ("get", "secrets/other"), ("delete", key)] {
        assert!(!system.can(&safe, verb, resource), "safe may {verb} {resource}");
    }
    assert!(!Kubectl::namespace("default").can(&safe, "get", key), "safe reads other namespaces");
}
