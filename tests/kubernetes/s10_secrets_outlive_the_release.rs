//! Safe's pod goes, the release is upgraded, uninstalled and installed anew: every secret opens.

use crate::support::{
    awaiting::{PATIENTLY, SOON},
    helm::{self, SYSTEM},
    installation,
    kubectl::Kubectl,
    part::SAFE,
    pod::Pod,
    secret,
    story::Story,
};

const SECRETS: [(&str, &str); 2] =
    [("db", r#"{"user":"app","password":"kept"}"#), ("raw", "bytes")];

/// Whether two root keys are the same is all that may ever be said of them.
fn root_key() -> serde_json::Value {
    let secret = Kubectl::namespace(SYSTEM).get("secret", "vsecm-root-key");
    secret.expect("the root key is there")["data"].clone()
}

/// What is registered, with revisions and times.
#[track_caller]
fn listed() -> String {
    secret::safe(&["-l", "--output", "json"], "").ok()
}

/// Pods that come now read every secret.
#[track_caller]
fn all_open(story: &Story, when: &str) {
    let create = |(name, value): (&str, &'static str)| {
        let pod = story.create(&Pod::of(name).named(&format!("{name}-{when}")));
        (pod, value)
    };
    let pods = SECRETS.map(create);
    for (pod, value) in &pods {
        pod.ready(PATIENTLY);
        assert_eq!(pod.read("secrets.json"), *value, "{when}");
    }
    for (pod, _value) in &pods {
        pod.delete(SOON);
    }
}

#[test]
#[ignore = "make e2e-all"]
fn every_secret_opens_whatever_becomes_of_the_release() {
    let story = Story::begin("s10_secrets_outlive_the_release");
    story.at_the_end(installation::ensure);
    for (name, value) in SECRETS {
        story.register(name, value);
    }
    let (key, list) = (root_key(), listed());
    let unchanged = |when: &str| {
        SAFE.pod(None).ready(PATIENTLY);
        installation::ready();
        assert!(root_key() == key, "another root key after {when}");
        assert_eq!(listed(), list, "after {when}");
    };
    let safes = || SAFE.pod(None).uid().to_owned();

    let before = safes();
    Kubectl::namespace(SYSTEM).delete("pod", "vsecm-safe-0", SOON);
    unchanged("the end of safe's pod");
    assert_ne!(safes(), before);
    all_open(&story, "pod-deleted");

    let before = safes();
    helm::upgrade(&["safe.podAnnotations.e2e=again"]).ok();
    unchanged("an upgrade");
    assert_ne!(safes(), before, "the upgrade did not make safe anew");
    all_open(&story, "upgraded");

    helm::uninstall(&[]).ok();
    assert_eq!(helm::status(), None);
    let system = Kubectl::namespace(SYSTEM);
    assert!(system.get("statefulset", "vsecm-safe").is_none(), "safe outlives the release");
    assert!(system.get("pvc", "data-vsecm-safe-0").is_some(), "its volume does not");
    helm::install(&[]).ok();
    unchanged("uninstall and install");
    all_open(&story, "installed-anew");
}
