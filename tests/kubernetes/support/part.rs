//! Our own containers on the nodes, and SPIRE's: which processes they have, and their deaths.

use std::{fs, path::Path};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    awaiting::{self, SOON},
    created::Created,
    helm::SYSTEM,
    installation,
    kubectl::{Kubectl, text},
    node::{self, processes_of},
};

/// A container of a workload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) workload: &'static str,
    pub(crate) container: &'static str,
}

pub(crate) const NODE_AGENT: Part = Part { workload: "vsecm-node", container: "node-agent" };
pub(crate) const CSI: Part = Part { workload: "vsecm-node", container: "csi" };
pub(crate) const KEEPER: Part = Part { workload: "vsecm-keeper", container: "keeper" };
pub(crate) const SAFE: Part = Part { workload: "vsecm-safe", container: "safe" };
pub(crate) const SENTINEL: Part = Part { workload: "vsecm-sentinel", container: "sentinel" };
pub(crate) const SPIRE_AGENT: Part = Part { workload: "spire-agent", container: "spire-agent" };
pub(crate) const SPIRE_SERVER: Part = Part { workload: "spire-server", container: "spire-server" };

impl Part {
    /// Its pod, on a node or anywhere: the one that is not about to end.
    #[track_caller]
    pub(crate) fn pod(self, node: Option<&str>) -> Created {
        let what = format!("a pod of {}", self.workload);
        awaiting::value(&what, SOON, || {
            let mut pods = installation::pods(self.workload, node);
            pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
            let names: Vec<_> = pods.iter().map(|pod| text(&pod["metadata"]["name"])).collect();
            let [name] = names.as_slice() else { return Err(format!("{names:?}")) };
            Created::look(SYSTEM, name).ok_or_else(|| format!("{name} has gone"))
        })
    }

    /// Its processes, as this machine numbers them; probes that run just now are left out.
    #[track_caller]
    pub(crate) fn processes(self, node: Option<&str>) -> Vec<i32> {
        let id = self.pod(node).container_id(self.container);
        let mut pids = processes_of(&id);
        pids.retain(|pid| command(*pid).is_some_and(|line| !line.contains(" probe ")));
        pids
    }

    /// The processes that have a word in their command line.
    #[track_caller]
    pub(crate) fn processes_with(self, node: Option<&str>, word: &str) -> Vec<i32> {
        let mut pids = self.processes(node);
        pids.retain(|pid| command(*pid).is_some_and(|line| line.contains(word)));
        pids
    }

    /// kill -9 for all of it, and waits until the kubelet has started it again.
    #[track_caller]
    pub(crate) fn dies(self, node: Option<&str>) {
        let pod = self.pod(node);
        let before = pod.restarts(self.container);
        end_container(&pod.container_id(self.container));
        awaiting::until(
            &format!("another run of {}", self.container),
            SOON,
            || pod.restarts(self.container) > before && !self.processes(node).is_empty(),
            || pod.describe(),
        );
    }
}

/// kill -9 for node-agent's server, whose supervisor starts another.
#[track_caller]
pub(crate) fn node_agents_server_dies(node: &str) {
    let server = || {
        let all = NODE_AGENT.processes(Some(node));
        let supervisors = NODE_AGENT.processes_with(Some(node), " supervise");
        all.into_iter().find(|pid| !supervisors.contains(pid))
    };
    let before = server().expect("node-agent's server runs");
    let restarts = NODE_AGENT.pod(Some(node)).restarts(NODE_AGENT.container);
    end(before);
    awaiting::until(
        "another server of node-agent",
        SOON,
        || server().is_some_and(|pid| pid != before),
        || format!("{before} alone"),
    );
    let after = NODE_AGENT.pod(Some(node)).restarts(NODE_AGENT.container);
    assert_eq!(after, restarts, "the supervisor went with its server");
}

/// kill -9 for a container's first process, with which all others end. Numbers do not tell which
/// it is: they begin anew.
#[track_caller]
pub(crate) fn end_container(id: &str) {
    let pids = processes_of(id);
    let parent = |pid: i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).map(str::trim);
        parent.and_then(|parent| parent.parse::<i32>().ok())
    };
    let is_first = |pid: &&i32| parent(**pid).is_some_and(|parent| !pids.contains(&parent));
    let firsts: Vec<_> = pids.iter().filter(is_first).copied().collect();
    // a probe that runs just now is a child of the runtime too
    let first = firsts.iter().find(|pid| command(**pid).is_some_and(|c| !c.contains(" probe ")));
    end(*first.unwrap_or_else(|| panic!("container {id} does not run: {pids:?}")));
}

/// kill -9.
#[track_caller]
pub(crate) fn end(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap_or_else(|e| panic!("{pid}: {e}"));
    awaiting::until(
        &format!("the end of process {pid}"),
        SOON,
        || command(pid).is_none(),
        || command(pid).unwrap_or_default(),
    );
}

/// The command line of a process that lives.
pub(crate) fn command(pid: i32) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok().filter(|line| !line.is_empty())?;
    Some(String::from_utf8_lossy(&line).replace('\0', " "))
}

/// Mounts of ours for a pod in any mount namespace of this machine, which has the nodes' too.
#[track_caller]
pub(crate) fn mounts_for(pod_uid: &str) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    let mut found = Vec::new();
    for pid in node::pids() {
        let process = Path::new("/proc").join(pid);
        // a process that ends meanwhile
        let Ok(space) = fs::read_link(process.join("ns/mnt")) else { continue };
        if !seen.insert(space) {
            continue;
        }
        let table = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
        let ours = table.lines().filter(|l| l.contains(" fuse.vsecm ") && l.contains(pod_uid));
        found.extend(ours.map(str::to_owned));
    }
    found
}

/// Waits until nothing of pods that were deleted is mounted anywhere.
#[track_caller]
pub(crate) fn nothing_is_left_of(pods: &[Created]) {
    for pod in pods {
        let mounts = || mounts_for(pod.uid());
        let what = format!("the end of all mounts of pod {}", pod.name());
        awaiting::until(&what, SOON, || mounts().is_empty(), || mounts().join("\n"));
    }
}

/// Takes a workload away until the function that comes back is called.
#[track_caller]
pub(crate) fn away(part: Part) -> impl FnOnce() {
    let system = Kubectl::namespace(SYSTEM);
    let (kind, gone, back) = match part.workload {
        "spire-agent" => {
            let nowhere = |value: Value| serde_json::json!({ "spec": { "template": { "spec": { "nodeSelector": { "e2e": value } } } } });
            ("daemonset", nowhere("nowhere".into()), nowhere(Value::Null))
        }
        "vsecm-sentinel" => ("deployment", replicas(0), replicas(1)),
        _ => ("statefulset", replicas(0), replicas(1)),
    };
    let workload = format!("{kind}/{}", part.workload);
    let patch = move |change: &Value| {
        system.run(["patch", &workload, "--type=merge", "--patch", &change.to_string()]).ok();
    };
    patch(&gone);
    let pods = || installation::pods(part.workload, None);
    let what = format!("the end of {}", part.workload);
    awaiting::until(&what, SOON, || pods().is_empty(), || format!("{} pods", pods().len()));
    move || patch(&back)
}

fn replicas(count: u32) -> Value {
    serde_json::json!({ "spec": { "replicas": count } })
}
