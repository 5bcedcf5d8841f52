//! The kubelet's own statistics show what a volume holds and whether it is well.

use serde_json::Value;

use crate::support::{
    awaiting::{self, PATIENTLY, SOON},
    created::Created,
    identity::{self, Identity, OWN},
    kubectl::Kubectl,
    node,
    pod::Pod,
    story::Story,
};

const VALUE: &str = r#"{"user":"admin","password":"correct horse"}"#;

/// Bytes in its files: the document and each key's value.
const BYTES: usize = VALUE.len() + "admin".len() + "correct horse".len();

/// The volume of a pod in `kubectl get --raw …/stats/summary`.
fn statistics(pod: &Created, node: &str) -> Result<Value, String> {
    let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
    let summary = Kubectl::cluster().run(["get", "--raw", &path]).ok();
    let summary: Value = serde_json::from_str(&summary).map_err(|error| error.to_string())?;
    let pods = summary["pods"].as_array().cloned().unwrap_or_default();
    let own = pods.iter().find(|one| one["podRef"]["uid"] == pod.uid());
    let volumes = own.ok_or("the summary has no such pod")?["volume"].clone();
    let of_ours = |volume: &&Value| volume["usedBytes"] == BYTES;
    let found = volumes.as_array().and_then(|volumes| volumes.iter().find(of_ours).cloned());
    found.ok_or_else(|| format!("no volume with {BYTES} bytes: {volumes}"))
}

#[test]
fn the_summary_has_the_volumes_bytes_files_and_condition() {
    let story = Story::begin("s40_the_kubelet_knows_usage_and_condition");
    let node = node::names().pop().expect("a node");
    let identity = Identity::new(&story, "taken", &identity::of_workload("web"));
    identity.give();
    story.register("web", VALUE);
    let pod = story.create(&Pod::unlabelled("web").label(OWN, "taken").on(&node));
    pod.ready(SOON);

    let volume = awaiting::value("statistics of the volume", PATIENTLY, || statistics(&pod, &node));
    assert_eq!((&volume["capacityBytes"], &volume["inodesUsed"]), (&BYTES.into(), &3.into()));
    if node::all("the condition, as it is an alpha feature of the kubelet").is_none() {
        return;
    }
    let abnormal = || {
        let volume = statistics(&pod, &node)?;
        let abnormal = volume["volumeHealthStats"]["abnormal"].as_bool();
        abnormal.ok_or_else(|| format!("no condition: {volume}"))
    };
    let is = |wanted: bool| {
        move || match abnormal() {
            Ok(found) if found == wanted => Ok(()),
            found => Err(format!("{found:?}")),
        }
    };
    awaiting::value("a volume that is well", PATIENTLY, is(false));
    identity.withdraw();
    awaiting::value("a volume without identity, told to be abnormal", PATIENTLY, is(true));
}
