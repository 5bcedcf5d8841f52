//! SPIRE takes a pod's identity away.

use serde_json::Value;
use vsecm_tests::{
    Component, PodSpec,
    awaiting::{Rotations, until},
    story::{self, SOON},
};

#[tokio::test(flavor = "multi_thread")]
async fn updates_stop_and_it_is_said_and_the_files_stay() {
    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web-0").workload("web")).unwrap();
    let twin = story.create_pod(PodSpec::new("web-1").workload("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    twin.ready(SOON).await.unwrap();

    assert!(story.withdraw_identity(&pod));
    let said =
        |line: &Value| line.to_string().contains("withdr") && line.to_string().contains("web-0");
    story.logs(Component::NodeAgent, SOON, said).await.unwrap();
    let mut rotations = Rotations::watch(twin.path()).unwrap();
    story.register("web", "default", br#"{"a":"2"}"#).await.unwrap();
    rotations.next(SOON).await.unwrap();
    assert_eq!(twin.read("a").await.unwrap(), b"2");
    assert_eq!(pod.read("a").await.unwrap(), b"1");

    let mut rotations = Rotations::watch(pod.path()).unwrap();
    story.grant_identity(&pod).unwrap();
    rotations.next(SOON).await.unwrap();
    assert_eq!(pod.read("a").await.unwrap(), b"2");
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_revoke_the_files_go_at_once() {
    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web").attribute("onWithdraw", "revoke")).unwrap();
    pod.ready(SOON).await.unwrap();
    assert!(story.withdraw_identity(&pod));
    until("the files' end", SOON, || !pod.path().join("a").exists()).await.unwrap();
    until("the document's end", SOON, || !pod.path().join("secrets.json").exists()).await.unwrap();
    story.grant_identity(&pod).unwrap();
    until("the files", SOON, || pod.path().join("a").exists()).await.unwrap();
    story.end().await.unwrap();
}
