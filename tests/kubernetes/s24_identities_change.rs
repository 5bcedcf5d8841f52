//! A pod has one identity after the other, or several at once.

use crate::support::{
    awaiting::SOON,
    identity::{self, Identity, OWN},
    metrics, node,
    pod::Pod,
    story::Story,
};

const STORY: &str = "s24_identities_change";

/// SPIRE adds ten seconds before, and renews at half of the whole.
const SHORT: &str = "20s";

#[test]
fn changes_come_after_many_identities() {
    let story = Story::begin(STORY);
    Identity::new(&story, "short", &identity::of_workload("web")).ttl(SHORT).give();
    story.register("web", "first");
    let pod = story.create(&Pod::unlabelled("web").label(OWN, "short"));
    pod.ready(SOON);
    for value in ["second", "third"] {
        identity::renewed(&pod, identity::issued(&pod), 2);
        story.register("web", value);
        pod.comes_to_read("secrets.json", value, SOON);
    }
}

#[test]
fn an_identity_of_another_form_beside_its_own_does_not_matter() {
    let story = Story::begin(STORY);
    Identity::new(&story, "both", &identity::of_service_account()).give();
    story.register("web", "first");
    // whichever entry comes first in SPIRE's random order
    let create = |number: u32| {
        story.create(&Pod::of("web").named(&format!("web-{number}")).label(OWN, "both"))
    };
    let pods: Vec<_> = (0..4).map(create).collect();
    for pod in &pods {
        pod.ready(SOON);
        assert_eq!(pod.read("secrets.json"), "first");
        let ids = identity::registered(pod);
        assert_eq!(ids.len(), 2, "SPIRE gives both: {ids:?}");
    }
    story.register("web", "second");
    for pod in &pods {
        pod.comes_to_read("secrets.json", "second", SOON);
    }
}

#[test]
fn two_identities_of_workloads_are_none_until_one_is_taken_away() {
    let story = Story::begin(STORY);
    let node = node::names().pop().expect("a node");
    let [web, other] = ["web", "other"].map(|name| {
        story.register(name, name);
        let identity = Identity::new(&story, "two", &identity::of_workload(name));
        identity.give();
        identity
    });
    let pod = story.create(&Pod::unlabelled("torn").label(OWN, "two").on(&node));
    metrics::counts_waiting(&node, "ambiguous_identity", 1);
    assert!(!pod.has_started(), "one of two identities was taken");
    other.withdraw();
    pod.ready(SOON);
    assert_eq!(pod.read("secrets.json"), "web");

    // a pod that runs keeps what it has, and is told
    other.give();
    metrics::counts_stale(&node, "ambiguous_identity", 1);
    assert_eq!(pod.read("secrets.json"), "web");
    web.withdraw();
    pod.comes_to_read("secrets.json", "other", SOON);
}
