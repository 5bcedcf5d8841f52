//! Requests that no kubelet makes, spoken to the driver's real socket.

use std::time::Duration;

use tonic::Code;
use vsecm_tests::proto::csi::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest};

use crate::support::{
    awaiting::SOON,
    driver::{self, Driver},
    helm::SYSTEM,
    installation,
    kubectl::{Kubectl, Run},
    node,
    pod::Pod,
    story::Story,
};

const STORY: &str = "s14_forged_requests_are_refused";

/// Longer than SPIRE and safe take for an honest request.
const LONG_ENOUGH: Duration = Duration::from_secs(8);

const CANARY: &str = "canary-4ff2b0a1";

const NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const NAME: &str = "csi.storage.k8s.io/pod.name";
const UID: &str = "csi.storage.k8s.io/pod.uid";
const ACCOUNT: &str = "csi.storage.k8s.io/serviceAccount.name";
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

type Change = Box<dyn FnOnce(&mut NodePublishVolumeRequest)>;

fn set(key: &str, value: &str) -> Change {
    let (key, value) = (key.to_owned(), value.to_owned());
    Box::new(move |request| {
        request.volume_context.insert(key, value);
    })
}

/// What is wrong in itself, and a word of the sentence that says so.
fn malformed(victim: &str) -> Vec<(Change, &'static str)> {
    let secret = |request: &mut NodePublishVolumeRequest| {
        request.secrets.insert("password".to_owned(), CANARY.to_owned());
    };
    let outside = |request: &mut NodePublishVolumeRequest| {
        "/etc/vsecm".clone_into(&mut request.target_path);
    };
    let upwards = |request: &mut NodePublishVolumeRequest| {
        request.target_path = request.target_path.replace("/volumes/", "/../other/volumes/");
    };
    let flags = |request: &mut NodePublishVolumeRequest| request.readonly = false;
    let victims = driver::target(victim);
    vec![
        (set(UID, victim), "belongs to the pod"),
        (Box::new(move |request| request.target_path = victims), "belongs to the pod"),
        (set(TOKENS, CANARY), "service account token"),
        (Box::new(secret), "nodePublishSecretRef"),
        (set("csi.storage.k8s.io/ephemeral", "false"), "persistent"),
        (set("layuot", CANARY), "layuot"),
        (set("mode", CANARY), "mode"),
        (Box::new(flags), "readOnly"),
        (Box::new(outside), "is not below"),
        (Box::new(upwards), "target path"),
    ]
}

#[test]
fn a_forged_request_gets_a_sentence_or_no_identity_and_never_a_secret() {
    let story = Story::begin(STORY);
    let Some(nodes) = node::all(STORY) else { return };
    let node = &nodes[0];
    let elsewhere = story.new_namespace("eve", &[]);
    story.register("web", "the victim's value");
    let victim = story.create(&Pod::of("web").on(node.name()));
    let eve = story.create_in(&elsewhere, &Pod::unlabelled("eve").without_volume().on(node.name()));
    victim.ready(SOON);
    eve.ready(SOON);
    let driver = Driver::of(node);
    let mounts = || {
        let all = node.our_mounts();
        all.into_iter().filter(|line| line.contains(eve.uid())).collect::<Vec<_>>()
    };
    let forged = |change: Change| {
        let mut request = driver::request(&eve, "default");
        change(&mut request);
        driver.publish(request, LONG_ENOUGH)
    };

    for (number, (change, word)) in malformed(victim.uid()).into_iter().enumerate() {
        let refusal = forged(change).expect_err("refused");
        let told = format!("number {number}: {refusal}");
        assert!(refusal.message().contains(word), "{told} does not say {word:?}");
        assert!(!told.contains(CANARY), "{told} repeats a value");
        assert_ne!(refusal.code(), Code::DeadlineExceeded, "{told}");
    }
    // the uid is eve's own and stands in her path; everything else is the victim's, in parts or whole
    let (namespace, name) = (victim.namespace().to_owned(), victim.name().to_owned());
    let whole: Change = Box::new(move |request| {
        for (key, value) in [(NAMESPACE, namespace), (NAME, name)] {
            request.volume_context.insert(key.to_owned(), value);
        }
    });
    let stolen = [whole, set(NAME, "web"), set(NAMESPACE, victim.namespace()), set(ACCOUNT, "web")];
    for (number, change) in stolen.into_iter().enumerate() {
        let held = forged(change).expect_err("no identity");
        let codes = [Code::DeadlineExceeded, Code::Cancelled, Code::Unavailable];
        assert!(codes.contains(&held.code()), "number {number}: {held}");
        let request = driver::request(&eve, "default");
        let (volume_id, target_path) = (request.volume_id, request.target_path);
        driver.unpublish(NodeUnpublishVolumeRequest { volume_id, target_path }).unwrap();
        assert!(mounts().is_empty(), "number {number}: {:?}", mounts());
    }
    assert!(mounts().is_empty(), "{:?}", mounts());
    assert_eq!(victim.read("secrets.json"), "the victim's value");

    let (pod, system) =
        (installation::pod_on("vsecm-node", node.name()), Kubectl::namespace(SYSTEM));
    for container in ["csi", "node-agent"] {
        let log = system.logs(&pod, container, Run::Present).ok();
        assert!(!log.is_empty(), "{container} has no log");
        assert!(!log.contains(CANARY), "{container} logs what it refuses");
    }
}
