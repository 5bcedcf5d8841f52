//! What an operator can get wrong on a cluster: each is told by a sentence that the documentation
//! explains, and is mended as it says there. A wrong trust domain and a missing socket of SPIRE's
//! are told in s26, on a SPIRE that has its own.

use std::fs;

use serde_json::json;

use crate::support::{
    awaiting::SOON,
    complaint::{self, is_documented},
    helm::{self, SYSTEM},
    installation::{self, DRIVER},
    kubectl::Kubectl,
    node, outage,
    part::{NODE_AGENT, SAFE},
    pod::Pod,
    story::Story,
};

const STORY: &str = "s27_bad_input_gets_a_sentence";

/// Base64 of `not a root key`.
const MALFORMED: &str = "bm90IGEgcm9vdCBrZXk=";

/// Puts it into the root key's Secret, in base64: by a file, as what holds a key is no argument.
#[track_caller]
fn put(key: &str) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), json!({ "data": { "KEY_TXT": key } }).to_string()).expect("a file");
    let patch = format!("--patch-file={}", file.path().display());
    Kubectl::namespace(SYSTEM).run(["patch", "secret", "vsecm-root-key", &patch]).ok();
}

#[test]
fn values_that_do_not_exist_are_refused_by_name() {
    let _story = Story::begin(STORY);
    for (set, named) in [("replicas=3", "replicas"), ("safe.replcas=0", "replcas")] {
        let refusal = helm::upgrade(&[set]).refused();
        assert!(refusal.contains(&format!("'{named}'")), "{refusal}");
        for words in ["values don't meet the specifications of the schema(s)", "not allowed"] {
            assert!(refusal.contains(words), "{words:?} is missing: {refusal}");
            is_documented(words);
        }
    }
    assert_eq!(helm::status().as_deref(), Some("deployed"), "something was upgraded");
}

#[test]
fn a_malformed_root_key_is_told_and_the_right_one_mends_it() {
    let story = Story::begin(STORY);
    let system = Kubectl::namespace(SYSTEM);
    story.register("web", "value");
    let good = system.get("secret", "vsecm-root-key").expect("the root key")["data"]["KEY_TXT"]
        .as_str()
        .expect("its item")
        .to_owned();
    let restored = good.clone();
    story.at_the_end(move || {
        put(&restored);
        installation::ready();
    });
    outage::begins(&story, SAFE);
    put(MALFORMED);
    // not waited for: it cannot become ready
    system.run(["scale", "statefulset/vsecm-safe", "--replicas=1"]).ok();
    let words = ["there is no root key: ", "is not a root key"];
    complaint::comes(SAFE, None, &words);
    let log = SAFE.pod(None).log(SAFE.container);
    assert!(!log.contains("not a root key\\n") && !log.contains(MALFORMED), "content is logged");
    let before = SAFE.pod(None);

    put(&good);
    outage::ends(SAFE);
    installation::ready();
    let after = SAFE.pod(None);
    assert_eq!((after.uid(), after.restarts("safe")), (before.uid(), 0), "safe was made anew");
    let pod = story.create(&Pod::of("web"));
    pod.ready(SOON);
    assert_eq!(pod.read("secrets.json"), "value");
}

#[test]
fn a_missing_csidriver_object_is_told_and_an_upgrade_puts_it_back() {
    let story = Story::begin(STORY);
    story.at_the_end(|| {
        helm::upgrade(&[]).ok();
        installation::ready();
    });
    Kubectl::cluster().delete("csidriver", DRIVER, SOON);
    for node in node::names() {
        complaint::comes(NODE_AGENT, Some(&node), &["there is no CSIDriver object csi.vsecm.com"]);
    }
    helm::upgrade(&[]).ok();
    installation::ready();
    story.register("web", "value");
    let pod = story.create(&Pod::of("web"));
    pod.ready(SOON);
    assert_eq!(pod.read("secrets.json"), "value");
}
