//! SPIRE's certificate authority is replaced, and the old one revoked: all speak to each other again.

use std::collections::BTreeSet;

use crate::support::{
    awaiting::{PATIENTLY, SOON},
    container::{Container, VOLUME},
    helm::SYSTEM,
    identity::{self, server},
    installation,
    kubectl::{Kubectl, text},
    node,
    pod::Pod,
    reader,
    story::Story,
};

const X509: [&str; 2] = ["localauthority", "x509"];

#[track_caller]
fn authority(verb: &str, id: Option<&str>) -> serde_json::Value {
    let mut command: Vec<_> = X509.iter().chain([&verb]).copied().collect();
    command.extend(["-output", "json"]);
    if let Some(id) = id {
        command.extend(["-authorityID", id]);
    }
    server(&command)
}

/// Certificates that whoever trusts SPIRE trusts.
#[track_caller]
fn bundle() -> BTreeSet<String> {
    let bundle = server(&["bundle", "show", "-output", "json"]);
    let authorities = bundle["x509_authorities"].as_array().cloned().unwrap_or_default();
    authorities.iter().map(|authority| text(&authority["asn1"])).collect()
}

#[test]
fn changes_and_new_pods_come_after_the_old_authority_was_revoked() {
    let story = Story::begin("s25_the_authority_is_rotated");
    let nodes = node::names();
    story.register("web", "first");
    let path = format!("{VOLUME}/secrets.json");
    let create = |node: &String| {
        let containers = [Container::idle("main"), reader::container("reader", &path, "true")];
        let pod = Pod::of("web").named(&format!("web-{node}")).on(node).containers(containers);
        story.create(&pod.attribute("onWithdraw", "revoke"))
    };
    let running: Vec<_> = nodes.iter().map(create).collect();
    for pod in &running {
        pod.ready(SOON);
    }
    let before = bundle();
    let old = text(&authority("show", None)["active"]["authority_id"]);
    assert!(!old.is_empty(), "no active authority");

    let new = text(&authority("prepare", None)["prepared_authority"]["authority_id"]);
    assert_eq!((before.len(), bundle().len()), (1, 2), "the bundle has both");
    authority("activate", Some(&new));
    let agents = identity::agents();
    let issued: Vec<_> = running.iter().map(identity::issued).collect();
    // makes every agent renew what the old one had signed
    authority("taint", Some(&old));
    // docs/install.md: an agent that learns of the revocation first never renews it
    identity::agents_renewed(&agents);
    for (pod, issued) in running.iter().zip(issued) {
        identity::renewed(pod, issued, 1);
    }
    story.register("web", "second");
    for pod in &running {
        pod.comes_to_read("secrets.json", "second", SOON);
        // that the agents had no identity for a moment was no withdrawal
        assert_eq!(reader::tally(pod, "reader", 0).failures, Vec::<String>::new());
    }

    authority("revoke", Some(&old));
    let after = bundle();
    assert!(!after.is_empty() && after.is_disjoint(&before), "the old one is still trusted");
    // sentinel stays: the identity that it has must do
    let restarted = ["statefulset/vsecm-safe", "daemonset/vsecm-node"];
    for workload in restarted {
        Kubectl::namespace(SYSTEM).run(["rollout", "restart", workload]).ok();
    }
    installation::ready();
    story.register("web", "third");
    for pod in &running {
        pod.comes_to_read("secrets.json", "third", PATIENTLY);
    }
    let new = story.create(&Pod::of("web").named("new").on(&nodes[0]));
    new.ready(PATIENTLY);
    assert_eq!(new.read("secrets.json"), "third");
}
