//! A node that comes up with the start-up taint gets pods once its driver is registered.

use crate::support::{
    awaiting::PATIENTLY,
    helm::{self, SYSTEM},
    installation,
    kubectl::Kubectl,
    node,
    story::Story,
};

const TAINT: &str = "vsecm.com/agent-not-ready";

#[test]
fn the_taint_is_removed_once_the_driver_is_registered() {
    let story = Story::begin("s19_the_startup_taint_goes");
    let cluster = Kubectl::cluster();
    helm::upgrade(&["node.startupTaint=true"]).ok();
    story.at_the_end(|| {
        helm::upgrade(&["node.startupTaint=false"]).ok();
        installation::ready();
    });
    installation::ready();
    let node = node::names().pop().expect("a node");
    let untaint = format!("{TAINT}-");
    let named = node.clone();
    story.at_the_end(move || {
        // fails when the taint has gone, as it should have
        Kubectl::cluster().run(["taint", "node", &named, &untaint]);
    });
    let other = "example.com/kept=:PreferNoSchedule";
    cluster.run(["taint", "node", &node, &format!("{TAINT}=:NoSchedule"), other]).ok();
    let named = node.clone();
    story.at_the_end(move || {
        Kubectl::cluster().run(["taint", "node", &named, "example.com/kept-"]).ok();
    });

    let system = Kubectl::namespace(SYSTEM);
    let pod = installation::pod_on("vsecm-node", &node);
    system.delete("pod", &pod, PATIENTLY);
    let object = cluster.wait(("node", &node), "the taint has gone", PATIENTLY, |object| {
        let taints = object["spec"]["taints"].to_string();
        if taints.contains(TAINT) { Err(taints) } else { Ok(()) }
    });
    let taints = object["spec"]["taints"].to_string();
    assert!(taints.contains("example.com/kept"), "another taint went too: {taints}");
}
