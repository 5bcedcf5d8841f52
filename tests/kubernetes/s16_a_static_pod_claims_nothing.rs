//! Whoever has a node can put static pods there, in any namespace: they get no identity.

use crate::support::{
    awaiting::{self, SOON},
    created::Created,
    metrics, node,
    pod::Pod,
    story::Story,
};

use super::s02_a_pod_waits_and_says_why::HOLD;

const STORY: &str = "s16_a_static_pod_claims_nothing";

#[test]
fn a_static_pod_in_another_namespace_gets_no_identity() {
    let story = Story::begin(STORY);
    let Some(nodes) = node::all(STORY) else { return };
    let node = nodes[0].clone();
    story.register("web", "the victim's value");
    let honest = story.create(&Pod::of("web").on(node.name()));
    honest.ready(SOON);

    let file = node.static_pod(STORY);
    let namespace = story.namespace();
    let mut manifest = Pod::of("web").named("forged").manifest();
    manifest["metadata"]["namespace"] = namespace.clone().into();
    // the API refuses a mirror of a pod that names an account
    manifest["spec"]["serviceAccountName"].take();
    let removed = file.clone();
    story.at_the_end(move || removed.remove());
    file.write(&manifest.to_string());
    let name = format!("forged-{}", node.name());
    let forged = awaiting::value("the mirror of the static pod", SOON, || {
        Created::look(&namespace, &name).ok_or_else(|| "no pod".to_owned())
    });
    metrics::counts_waiting(node.name(), "no_entry", 1);
    let sentence = forged.waits_saying("no SPIRE entry for pod", HOLD);
    assert!(sentence.contains(&name), "{sentence}");
    assert!(!forged.has_started());
    assert_eq!(honest.read("secrets.json"), "the victim's value");
}
