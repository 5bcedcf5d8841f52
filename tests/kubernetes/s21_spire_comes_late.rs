//! node-agent starts before SPIRE does, and SPIRE's agents are made anew: pods that run keep their
//! files, pods that come wait, and all go on by themselves.

use crate::support::{
    awaiting::{PATIENTLY, SOON},
    complaint,
    helm::SYSTEM,
    installation,
    kubectl::Kubectl,
    metrics, node, outage,
    part::{NODE_AGENT, SPIRE_AGENT},
    pod::Pod,
    story::Story,
};

#[test]
fn a_node_agent_that_starts_before_spire_waits_for_it() {
    let story = Story::begin("s21_spire_comes_late");
    let node = node::names().pop().expect("a node");
    let node = node.as_str();
    story.register("web", "first");
    let running = story.create(&Pod::of("web").on(node));
    running.ready(SOON);

    outage::begins(&story, SPIRE_AGENT);
    let system = Kubectl::namespace(SYSTEM);
    let before = NODE_AGENT.pod(Some(node));
    system.delete("pod", before.name(), SOON);
    let sentence = ["this node agent has no identity of its own"];
    complaint::comes(NODE_AGENT, Some(node), &sentence);
    let waiting = story.create(&Pod::of("web").named("waiting").on(node));
    metrics::counts_waiting(node, "spire_unreachable", 1);
    assert!(!waiting.has_started(), "a pod has files without SPIRE");
    assert_eq!(running.read("secrets.json"), "first");

    outage::ends(SPIRE_AGENT);
    installation::ready();
    waiting.ready(PATIENTLY);
    assert_ne!(NODE_AGENT.pod(Some(node)).uid(), before.uid());
    story.register("web", "second");
    for pod in [&running, &waiting] {
        pod.comes_to_read("secrets.json", "second", SOON);
    }
}

#[test]
fn changes_and_new_pods_come_after_spires_agents_were_made_anew() {
    let story = Story::begin("s21_spire_comes_late");
    let node = node::names().pop().expect("a node");
    story.register("web", "first");
    let running = story.create(&Pod::of("web").on(&node));
    running.ready(SOON);
    let old = SPIRE_AGENT.pod(Some(&node));
    let system = Kubectl::namespace(SYSTEM);
    system.run(["rollout", "restart", "daemonset/spire-agent"]).ok();
    system.rolled_out("daemonset/spire-agent", PATIENTLY);
    assert_ne!(SPIRE_AGENT.pod(Some(&node)).uid(), old.uid());

    assert_eq!(running.read("secrets.json"), "first");
    let new = story.create(&Pod::of("web").named("new").on(&node));
    new.ready(PATIENTLY);
    // sentinel has its identity by a new agent, too
    installation::ready();
    story.register("web", "second");
    for pod in [&running, &new] {
        pod.comes_to_read("secrets.json", "second", SOON);
    }
}
