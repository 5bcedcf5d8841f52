//! What a failing story leaves: logs, events and `describe`, in `target/e2e/<story>/`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    helm::SYSTEM,
    kubectl::{Kubectl, Run, text},
};

/// Where.
pub(crate) fn folder(story: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e").join(story);
    fs::create_dir_all(&target).expect("target/e2e");
    target
}

/// Gathers what there is of a failed story, in its namespaces and the system's.
pub(crate) fn gather(story: &str, namespaces: &[String]) {
    let folder = folder(story);
    let all = [SYSTEM.to_owned(), "spire-system".to_owned()];
    for namespace in all.iter().chain(namespaces) {
        gather_from(&folder, namespace);
    }
    let nodes = Kubectl::cluster().run(["describe", "nodes"]);
    write(&folder, "nodes.describe", &nodes.stdout);
}

fn gather_from(folder: &Path, namespace: &str) {
    let kubectl = Kubectl::namespace(namespace);
    let kinds = "pods,daemonsets,statefulsets,deployments,persistentvolumeclaims";
    let described = kubectl.run(["describe", kinds]);
    write(folder, &format!("{namespace}.describe"), &described.stdout);
    let events = kubectl.run(["get", "events", "--sort-by=.lastTimestamp", "--output=wide"]);
    write(folder, &format!("{namespace}.events"), &events.stdout);
    for pod in kubectl.list("pods", "") {
        let name = text(&pod["metadata"]["name"]);
        for container in containers(&pod) {
            for (run, suffix) in [(Run::Present, "log"), (Run::Previous, "previous.log")] {
                let log = kubectl.logs(&name, &container, run);
                if log.is_ok() {
                    let file = format!("{namespace}.{name}.{container}.{suffix}");
                    write(folder, &file, &log.stdout);
                }
            }
        }
    }
}

fn containers(pod: &Value) -> Vec<String> {
    let lists = ["initContainers", "containers"].map(|list| pod["spec"][list].as_array());
    lists.into_iter().flatten().flatten().map(|container| text(&container["name"])).collect()
}

fn write(folder: &Path, file: &str, content: &str) {
    fs::write(folder.join(file), content).expect("target/e2e can be written");
}
