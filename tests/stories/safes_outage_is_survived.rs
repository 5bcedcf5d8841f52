//! [I2]: an error is never "no secret".

use vsecm_tests::{
    Component, PodSpec,
    awaiting::Rotations,
    story::{self, SOON},
};

#[tokio::test(flavor = "multi_thread")]
async fn files_stay_during_an_outage_and_what_changed_arrives_after_it() {
    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    story.register("gone", "default", br#"{"a":"1"}"#).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    let other = story.create_pod(PodSpec::new("gone")).unwrap();
    pod.ready(SOON).await.unwrap();
    other.ready(SOON).await.unwrap();
    let mut rotations = Rotations::watch(pod.path()).unwrap();
    let mut deletions = Rotations::watch(other.path()).unwrap();

    story.crash(Component::Safe).await.unwrap();
    let unreachable = |line: &serde_json::Value| line["level"] == "WARN";
    story.logs(Component::NodeAgent, SOON, unreachable).await.unwrap();
    assert_eq!(pod.read("a").await.unwrap(), b"1");
    let waiting = story.create_pod(PodSpec::new("late")).unwrap();
    let event = waiting.waits(SOON).await.unwrap();
    assert!(event.to_lowercase().contains("safe"), "{event}");

    story.start_component(Component::Safe).await.unwrap();
    story.register("web", "default", br#"{"a":"2"}"#).await.unwrap();
    story.unregister("gone", "default").await.unwrap();
    story.register("late", "default", br#"{"a":"3"}"#).await.unwrap();
    rotations.next(SOON).await.unwrap();
    assert_eq!(pod.read("a").await.unwrap(), b"2");
    deletions.next(SOON).await.unwrap();
    vsecm_tests::awaiting::until("the files' end", SOON, || !other.path().join("a").exists())
        .await
        .unwrap();
    waiting.ready(SOON).await.unwrap();
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_takes_the_files_and_a_new_value_brings_them_back() {
    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    story.unregister("web", "default").await.unwrap();
    vsecm_tests::awaiting::until("the files' end", SOON, || !pod.path().join("a").exists())
        .await
        .unwrap();
    vsecm_tests::awaiting::until("the document's end", SOON, || {
        !pod.path().join("secrets.json").exists()
    })
    .await
    .unwrap();
    story.register("web", "default", br#"{"b":"2"}"#).await.unwrap();
    vsecm_tests::awaiting::until("the files", SOON, || pod.path().join("b").exists())
        .await
        .unwrap();
    assert_eq!(pod.names().await.unwrap(), ["b", "secrets.json"]);
    story.end().await.unwrap();
}
