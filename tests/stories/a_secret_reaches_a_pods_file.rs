//! The whole path: operator, safe, node-agent, volume, file.

use std::time::Duration;

use vsecm_tests::{
    PodSpec,
    kubelet::Phase,
    story::{self, SOON},
};

const VALUE: &str = r#"{"username":"admin","password":"correct horse"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_registered_secret_is_there_when_the_pod_starts() {
    let story = story::start().await.unwrap();
    story.register("web", "default", VALUE.as_bytes()).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    assert_eq!(pod.read_text("username").await.unwrap(), "admin");
    assert_eq!(pod.read_text("password").await.unwrap(), "correct horse");
    assert_eq!(pod.read_text("secrets.json").await.unwrap(), VALUE);
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_pod_says_why_and_wakes_when_the_secret_is_registered() {
    let story = story::start().await.unwrap();
    let pod = story.create_pod(PodSpec::new("web").namespace("shop")).unwrap();
    let event = pod.waits(SOON).await.unwrap();
    assert!(event.starts_with("rpc error: code = Unavailable desc = "), "{event}");
    assert!(event.contains("safe -w web -n shop"), "{event}");
    // while a call is held the secret is seen at once: no pause of the kubelet lies between
    pod.reaches(SOON, |state| state.phase == Phase::Publishing).await.unwrap();
    story.register("web", "shop", VALUE.as_bytes()).await.unwrap();
    pod.ready(Duration::from_secs(5)).await.unwrap();
    assert_eq!(pod.read_text("username").await.unwrap(), "admin");
    story.end().await.unwrap();
}
