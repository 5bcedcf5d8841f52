//! Whoever makes pods in a namespace may claim any name in it, but for those of the system's own
//! parts.

use crate::support::{awaiting::SOON, identity, metrics, node, pod::Pod, story::Story};

const STORY: &str = "s29_reserved_names_are_nobodys";

#[test]
fn a_label_with_the_name_of_a_part_gives_no_identity() {
    let story = Story::begin(STORY);
    let node = node::names().pop().expect("a node");
    story.register("web", "value");
    let impostor = story.create(&Pod::of("vsecm-safe").on(&node));
    // a pod that came later has its identity: SPIRE has had its time
    let honest = story.create(&Pod::of("web").on(&node));
    honest.ready(SOON);
    assert_eq!(identity::registered(&honest).len(), 1);
    assert_eq!(identity::registered(&impostor), Vec::<String>::new());
    metrics::counts_waiting(&node, "no_entry", 1);
    assert!(!impostor.has_started());

    // its call ends, and with it the pod, once it has an identity
    story.register("other", "another value");
    let relabel = ["label", "--overwrite", "pod", impostor.name(), "vsecm.com/workload=other"];
    story.kubectl().run(relabel).ok();
    impostor.ready(SOON);
    assert_eq!(impostor.read("secrets.json"), "another value");
}
