//! Without a `CSIDriver` object that makes the kubelet's word believable nothing new is published;
//! what is there stays, and once the object is right again waiting pods go on.

use std::time::Duration;

use serde_json::{Value, json};
use tonic::Code;

use crate::support::{
    awaiting::{self, PATIENTLY, SOON},
    driver::{self, Driver},
    installation::DRIVER,
    kubectl::Kubectl,
    node,
    pod::Pod,
    story::Story,
};

const STORY: &str = "s15_the_csidriver_object_is_watched";

const OBJECT: &str = "csidriver";

/// A publish that is refused is refused at once, unlike one that waits.
const AT_ONCE: Duration = Duration::from_secs(5);

/// The object as it can be made again.
fn saved() -> Value {
    let mut object = Kubectl::cluster().get(OBJECT, DRIVER).expect("the CSIDriver object");
    let metadata = &object["metadata"];
    object["metadata"] = json!({
        "name": metadata["name"],
        "labels": metadata["labels"],
        "annotations": metadata["annotations"]
    });
    object
}

fn replace(object: &Value) {
    let cluster = Kubectl::cluster();
    cluster.delete(OBJECT, DRIVER, SOON);
    cluster.apply(object);
}

#[test]
fn nothing_new_is_published_while_the_object_is_missing_or_unfit() {
    let story = Story::begin(STORY);
    let Some(nodes) = node::all(STORY) else { return };
    let node = &nodes[0];
    let good = saved();
    let restored = good.clone();
    story.at_the_end(move || replace(&restored));
    story.register("web", "value");
    let old = story.create(&Pod::of("web").on(node.name()));
    old.ready(SOON);
    let claimed = story.create(&Pod::of("web").named("claimed").without_volume().on(node.name()));
    claimed.ready(SOON);
    let driver = Driver::of(node);
    let refuses = |word: &str| {
        awaiting::value(&format!("a refusal with {word:?}"), SOON, || {
            match driver.publish(driver::request(&claimed, "default"), AT_ONCE) {
                Err(status) if status.message().contains(word) => Ok(status.code()),
                other => Err(format!("{other:?}")),
            }
        })
    };

    Kubectl::cluster().delete(OBJECT, DRIVER, SOON);
    assert_eq!(refuses("there is no CSIDriver object"), Code::Unavailable);
    assert_eq!(old.read("secrets.json"), "value");

    let mut unfit = good.clone();
    unfit["spec"]["podInfoOnMount"] = json!(false);
    replace(&unfit);
    assert_eq!(refuses("podInfoOnMount"), Code::Unavailable);

    let mut unfit = good.clone();
    unfit["spec"]["volumeLifecycleModes"] = json!(["Persistent", "Ephemeral"]);
    replace(&unfit);
    assert_eq!(refuses("volumeLifecycleModes"), Code::Unavailable);
    let waiting = story.create(&Pod::of("web").named("waiting").on(node.name()));
    waiting.waits_saying("volumeLifecycleModes", SOON);
    assert!(!waiting.has_started());
    assert_eq!(old.read("secrets.json"), "value");

    replace(&good);
    waiting.ready(PATIENTLY);
    assert_eq!(waiting.read("secrets.json"), "value");
}
