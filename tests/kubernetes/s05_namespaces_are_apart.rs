//! The same name in two namespaces is two secrets; a pod without identity gets none, says why,
//! and goes on once it has one.

use crate::support::{awaiting::SOON, pod::Pod, story::Story};

use super::s02_a_pod_waits_and_says_why::HOLD;

#[test]
fn one_name_in_two_namespaces_is_two_secrets() {
    let story = Story::begin("s05_namespaces_are_apart");
    let (here, there) = (story.namespace(), story.new_namespace("other", &[]));
    let stranger = story.create(&Pod::unlabelled("stranger"));

    story.register_in(&here, "db", "value of here");
    let reader = story.create_in(&here, &Pod::of("db"));
    let namesake = story.create_in(&there, &Pod::of("db"));
    reader.ready(SOON);
    assert_eq!(reader.read("secrets.json"), "value of here");
    assert!(!namesake.has_started(), "the other namespace's pod has its secret from here");
    story.register_in(&there, "db", "value of there");
    namesake.ready(SOON);
    assert_eq!(namesake.read("secrets.json"), "value of there");
    assert_eq!(reader.read("secrets.json"), "value of here");

    let sentence = stranger.waits_saying("no SPIRE entry for pod", HOLD);
    let wanted = format!("{here}/stranger");
    assert!(sentence.contains(&wanted), "{sentence}");
    assert!(sentence.contains("vsecm.com/workload"), "what it needs is not said: {sentence}");
    assert!(!stranger.has_started());
    story.kubectl().run(["label", "pod", stranger.name(), "vsecm.com/workload=db"]).ok();
    stranger.ready(SOON);
    assert_eq!(stranger.read("secrets.json"), "value of here");
}
