//! Whoever has a node can put static pods there, in any namespace and with any label: they get no
//! identity. The kubelet itself refuses a static pod with a volume of ours, so it is the driver
//! that is asked for one, as somebody who has the node could.

use std::{thread, time::Duration};

use tonic::Code;
use vsecm_tests::proto::csi::NodeUnpublishVolumeRequest;

use crate::support::{
    awaiting::{self, SOON},
    created::Created,
    driver::{self, Driver},
    metrics, node,
    pod::Pod,
    story::Story,
};

const STORY: &str = "s16_a_static_pod_claims_nothing";

/// Long enough for its wait to be counted meanwhile.
const LONG_ENOUGH: Duration = Duration::from_secs(20);

#[test]
fn a_static_pod_in_another_namespace_gets_no_identity() {
    let story = Story::begin(STORY);
    let Some(nodes) = node::all(STORY) else { return };
    let node = nodes[0].clone();
    story.register("web", "the victim's value");

    let file = node.static_pod(STORY);
    let namespace = story.namespace();
    let mut manifest = Pod::of("web").named("forged").without_volume().manifest();
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
    forged.ready(SOON);
    // a pod that came later has its identity: SPIRE has had its time
    let honest = story.create(&Pod::of("web").on(node.name()));
    honest.ready(SOON);

    for account in ["default", "web"] {
        let request = driver::request(&forged, account);
        let (volume_id, target_path) = (request.volume_id.clone(), request.target_path.clone());
        let asked = node.clone();
        let call = thread::spawn(move || Driver::of(&asked).publish(request, LONG_ENOUGH));
        metrics::counts_waiting(node.name(), "no_entry", 1);
        let held = call.join().unwrap().expect_err("no identity");
        // the first wait is short, and says why
        let says_why = held.message().contains("no SPIRE entry for pod");
        assert!(held.code() == Code::Unavailable && says_why, "{held}");
        let end = NodeUnpublishVolumeRequest { volume_id, target_path };
        Driver::of(&node).unpublish(end).unwrap();
        metrics::counts_waiting(node.name(), "no_entry", 0);
    }
    assert!(node.our_mounts().iter().all(|line| !line.contains(forged.uid())));
    assert_eq!(honest.read("secrets.json"), "the victim's value");
}
