//! SPIRE's server is away for longer than an identity lives: files stay, it is said why nothing
//! newer comes, and afterwards all goes on.

use crate::support::{
    awaiting::{PATIENTLY, SOON},
    complaint::is_documented,
    helm, identity, installation, metrics, node, outage,
    part::SPIRE_SERVER,
    pod::Pod,
    story::Story,
};

/// SPIRE's agents renew at half of it.
const TTL: &str = "workloadIdentity.ttl=20s";

#[test]
#[ignore = "make e2e-all"]
fn identities_end_while_the_server_is_away_and_no_file_does() {
    let story = Story::begin("s22_spires_server_is_down_for_long");
    story.at_the_end(|| {
        helm::upgrade(&[]).ok();
        installation::ready();
    });
    helm::upgrade(&[TTL, "node.holdSeconds=3"]).ok();
    installation::ready();
    let node = node::names().pop().expect("a node");
    story.register("web", "first");
    let running = story.create(&Pod::of("web").on(&node));
    // the secret comes later: what it waits for now changes with its identity
    let waiting = story.create(&Pod::of("later").on(&node));
    running.ready(SOON);
    metrics::counts_waiting(&node, "not_registered", 1);
    // so short lives are in force
    identity::renewed(&running, identity::issued(&running), 1);

    outage::begins(&story, SPIRE_SERVER);
    metrics::counts_stale(&node, "identity_expired", 1);
    metrics::counts_waiting(&node, "identity_expired", 1);
    assert_eq!(running.read("secrets.json"), "first");
    let sentence = waiting.waits_saying("SPIRE has not renewed it", PATIENTLY);
    is_documented("ended at T and SPIRE has not renewed it");
    assert!(sentence.contains("ended at 2"), "{sentence}");
    // safe's identity and sentinel's live longer
    story.register("web", "second");
    let new = story.create(&Pod::of("web").named("new").on(&node));
    new.waits_saying("no SPIRE entry for pod", SOON);
    assert_eq!(running.read("secrets.json"), "first", "news without an identity that is good");

    outage::ends(SPIRE_SERVER);
    running.comes_to_read("secrets.json", "second", PATIENTLY);
    new.ready(PATIENTLY);
    story.register("later", "at last");
    waiting.ready(PATIENTLY);
    metrics::counts_stale(&node, "identity_expired", 0);
}
