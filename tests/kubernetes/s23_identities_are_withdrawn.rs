//! The entry of a pod that runs is deleted: its files stay without updates, or go, as the pod says.

use crate::support::{
    awaiting::{self, SOON},
    container::VOLUME,
    created::Created,
    identity::{self, Identity, OWN},
    metrics, node,
    pod::Pod,
    story::Story,
};

#[track_caller]
fn loses_its_files(pod: &Created) {
    let listed = || pod.exec("main", &["ls", "-A", VOLUME]).stdout;
    let what = format!("the end of the files of {}", pod.name());
    awaiting::until(&what, SOON, || !listed().contains("secrets.json"), listed);
}

#[test]
fn a_pod_keeps_its_files_or_loses_them_as_it_asked() {
    let story = Story::begin("s23_identities_are_withdrawn");
    let node = node::names().pop().expect("a node");
    let identity = Identity::new(&story, "taken", &identity::of_workload("web"));
    identity.give();
    story.register("web", "first");
    let own = |on_withdraw: &str| {
        let pod = Pod::unlabelled(on_withdraw).label(OWN, "taken").on(&node);
        story.create(&pod.attribute("onWithdraw", on_withdraw))
    };
    let (keep, revoke) = (own("keep"), own("revoke"));
    let other = story.create(&Pod::of("web").on(&node));
    for pod in [&keep, &revoke, &other] {
        pod.ready(SOON);
        assert_eq!(pod.read("secrets.json"), "first");
    }

    identity.withdraw();
    loses_its_files(&revoke);
    metrics::counts_stale(&node, "identity_withdrawn", 2);
    assert_eq!(keep.read("secrets.json"), "first");
    story.register("web", "second");
    // the same watch of the same node has brought it
    other.comes_to_read("secrets.json", "second", SOON);
    assert_eq!(keep.read("secrets.json"), "first", "news for a pod that has lost its identity");
    loses_its_files(&revoke);

    identity.give();
    for pod in [&keep, &revoke] {
        pod.comes_to_read("secrets.json", "second", SOON);
    }
    metrics::counts_stale(&node, "identity_withdrawn", 0);
}
