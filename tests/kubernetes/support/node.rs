//! The nodes themselves, behind the API server's back: only on the project's own cluster.

use std::{
    env, fs,
    io::{self, Write as _},
    path::PathBuf,
};

use super::{
    kubectl::{Kubectl, text},
    program::{Output, Program},
};

/// A node of the project's own cluster.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    name: String,
    script: String,
}

/// Names of all nodes.
pub(crate) fn names() -> Vec<String> {
    let nodes = Kubectl::cluster().list("nodes", "");
    nodes.iter().map(|node| text(&node["metadata"]["name"])).collect()
}

/// All nodes; `None`, and a sentence that no test harness swallows, on somebody else's cluster.
pub(crate) fn all(story: &str) -> Option<Vec<Node>> {
    let Ok(script) = env::var("VSECM_CLUSTER") else {
        let sentence = format!(
            "SKIPPED what needs the nodes, in part or whole: {story}; VSECM_CLUSTER is unset\n"
        );
        io::stderr().write_all(sentence.as_bytes()).expect("stderr");
        return None;
    };
    Some(names().into_iter().map(|name| Node { name, script: script.clone() }).collect())
}

/// The folder of the project's own cluster on this machine.
#[track_caller]
pub(crate) fn state() -> PathBuf {
    let script = env::var("VSECM_CLUSTER").expect("only for who has the nodes");
    PathBuf::from(Program::new(&script).arg("state").run().ok().trim())
}

impl Node {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn script(&self, verb: &str) -> Program {
        Program::new(&self.script).args([verb, &self.name])
    }

    /// Runs a command in the node's namespaces.
    #[track_caller]
    pub(crate) fn exec(&self, argv: &[&str]) -> Output {
        self.script("exec").args(argv).run()
    }

    /// kill -9 for kubelet, containerd, kube-proxy …
    #[track_caller]
    pub(crate) fn kill(&self, process: &str) {
        self.script("kill").arg(process).run().ok();
    }

    /// Starts kubelet, containerd or kube-proxy again.
    #[track_caller]
    pub(crate) fn start(&self, process: &str) {
        self.script("start").arg(process).run().ok();
    }

    /// Lines of the node's mountinfo.
    #[track_caller]
    pub(crate) fn mountinfo(&self) -> Vec<String> {
        let table = self.exec(&["cat", "/proc/self/mountinfo"]).ok();
        table.lines().map(str::to_owned).collect()
    }

    /// Lines of mountinfo that are ours: the type of each of our mounts is `fuse.vsecm`.
    #[track_caller]
    pub(crate) fn our_mounts(&self) -> Vec<String> {
        self.mountinfo().into_iter().filter(|line| line.contains(" fuse.vsecm ")).collect()
    }

    /// Names in a folder of the node; `None` if there is no such folder. Never for a folder below
    /// which a dead server's mount could be.
    #[track_caller]
    pub(crate) fn folder(&self, path: &str) -> Option<Vec<String>> {
        let output = self.exec(&["ls", "-A1", path]);
        output.is_ok().then(|| output.stdout.lines().map(str::to_owned).collect())
    }

    /// A static pod of the node, to be written.
    #[track_caller]
    pub(crate) fn static_pod(&self, name: &str) -> StaticPod {
        let folder = state().join(&self.name).join("manifests");
        StaticPod { path: folder.join(format!("{name}.json")) }
    }

    /// A path of the node, as this process reaches it.
    #[track_caller]
    pub(crate) fn reach(&self, path: &str) -> PathBuf {
        let space = self.exec(&["readlink", "/proc/self/ns/mnt"]).ok();
        let same = |pid: &str| {
            let link = fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
            link.is_some_and(|link| link.to_string_lossy() == space.trim())
        };
        let pid = pids().into_iter().find(|pid| same(pid));
        let pid = pid.unwrap_or_else(|| panic!("no process in the namespace of {}", self.name));
        PathBuf::from(format!("/proc/{pid}/root{path}"))
    }
}

/// A manifest in the folder of a node's static pods.
#[derive(Clone, Debug)]
pub(crate) struct StaticPod {
    path: PathBuf,
}

impl StaticPod {
    /// Makes the kubelet run it.
    pub(crate) fn write(&self, manifest: &str) {
        fs::write(&self.path, manifest).expect("the folder of static pods");
    }

    /// Ends it.
    pub(crate) fn remove(&self) {
        fs::remove_file(&self.path).expect("the folder of static pods");
    }
}

/// Ids of all processes of this machine, which has the nodes' processes too.
pub(crate) fn pids() -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.bytes().all(|b| b.is_ascii_digit())).collect()
}

/// The processes of a container, by its id, as this machine numbers them; the first started first.
pub(crate) fn processes_of(container_id: &str) -> Vec<i32> {
    let id = container_id.trim_start_matches("containerd://");
    assert!(!id.is_empty(), "a container that runs has an id");
    let inside = |pid: &String| {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"));
        groups.is_ok_and(|groups| groups.contains(id))
    };
    let mut pids: Vec<i32> =
        pids().iter().filter(|p| inside(p)).map(|p| p.parse().unwrap()).collect();
    pids.sort_unstable();
    pids
}
