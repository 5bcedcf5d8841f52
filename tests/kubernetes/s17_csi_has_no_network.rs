//! The privileged container has left the pod's network: it has a loopback that is down, and no more.

use crate::support::{
    helm::SYSTEM,
    installation,
    kubectl::{Kubectl, text},
    node::{self, processes_of},
    program::Program,
    story::Story,
};

const STORY: &str = "s17_csi_has_no_network";

/// Interfaces in a process's `/proc/net/dev`.
fn interfaces(pid: i32) -> Vec<String> {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).expect("/proc/PID/net/dev");
    let names = table.lines().skip(2).filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}

fn container_id(pod: &str, container: &str) -> String {
    let pod = Kubectl::namespace(SYSTEM).get("pod", pod).expect("the pod");
    let statuses = pod["status"]["containerStatuses"].as_array().expect("a pod that runs");
    let status = statuses.iter().find(|status| status["name"] == container);
    text(&status.expect("the container")["containerID"])
}

#[test]
fn csi_sees_nothing_but_a_downed_loopback() {
    let _story = Story::begin(STORY);
    let Some(nodes) = node::all(STORY) else { return };
    for node in &nodes {
        let pod = installation::pod_on("vsecm-node", node.name());
        let processes = processes_of(&container_id(&pod, "csi"));
        assert!(!processes.is_empty(), "csi runs on {}", node.name());
        for pid in processes {
            assert_eq!(interfaces(pid), ["lo"], "on {}", node.name());
            let target = pid.to_string();
            let ip = ["--target", &target, "--net", "ip", "-oneline", "link", "show"];
            let links = Program::new("nsenter").args(ip).run().ok();
            assert!(links.contains("lo: <LOOPBACK>"), "not down: {links}");
        }
        // the sibling has the pod's network: the difference is csi's own doing
        let sibling = processes_of(&container_id(&pod, "node-agent"));
        let seen = interfaces(*sibling.first().expect("node-agent runs"));
        assert!(seen.iter().any(|name| name == "eth0"), "{seen:?}");
    }
}
