//! SPIRE's certificate authority is replaced, and the old one revoked: all speak to each other again.

use std::collections::BTreeSet;

use crate::support::{
    awaiting::{PATIENTLY, SOON},
    helm::SYSTEM,
    identity::{self, server},
    installation,
    kubectl::{Kubectl, text},
    node,
    pod::Pod,
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
    let node = node::names().pop().expect("a node");
    story.register("web", "first");
    let running = story.create(&Pod::of("web").on(&node));
    running.ready(SOON);
    let before = bundle();
    let old = text(&authority("show", None)["active"]["authority_id"]);
    assert!(!old.is_empty(), "no active authority");

    let new = text(&authority("prepare", None)["prepared_authority"]["authority_id"]);
    assert_eq!((before.len(), bundle().len()), (1, 2), "the bundle has both");
    let issued = identity::issued(&running);
    authority("activate", Some(&new));
    // makes every agent renew what the old one had signed
    authority("taint", Some(&old));
    identity::renewed(&running, issued, 1);
    story.register("web", "second");
    running.comes_to_read("secrets.json", "second", SOON);

    authority("revoke", Some(&old));
    let after = bundle();
    assert!(!after.is_empty() && after.is_disjoint(&before), "the old one is still trusted");
    let restarted = ["statefulset/vsecm-safe", "daemonset/vsecm-node"];
    for workload in restarted {
        Kubectl::namespace(SYSTEM).run(["rollout", "restart", workload]).ok();
    }
    installation::ready();
    story.register("web", "third");
    running.comes_to_read("secrets.json", "third", PATIENTLY);
    let new = story.create(&Pod::of("web").named("new").on(&node));
    new.ready(PATIENTLY);
    assert_eq!(new.read("secrets.json"), "third");
}
