//! [I2], [I6]: a pod starts while Safe is away, from what its node holds; what Safe ended or deleted
//! starts none.

use std::time::{Duration, Instant};

use time::OffsetDateTime;
use vsecm_tests::{
    Component, Options, PodSpec,
    awaiting::{self, until},
    story::{self, SOON, Story},
};

use crate::support::operator::Operator;

/// A playground whose node retains content for so long.
async fn retaining(max_stale: &str) -> Story {
    let environment =
        vec![(Component::NodeAgent, "VSECM_MAX_STALE".to_owned(), max_stale.to_owned())];
    let hold = Duration::from_secs(2);
    story::start_with(Options { hold, environment, ..Options::default() }).await.unwrap()
}

/// A pod of the workload `web` that came, was ready, and has gone.
async fn a_pod_has_gone(story: &Story) {
    let pod = story.create_pod(PodSpec::new("first").workload("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    story.delete_pod(&pod, SOON).await.unwrap();
}

async fn node_agent_is_killed(story: &Story) {
    let dead = story.crash(Component::NodeAgent).await.unwrap();
    let back = || story.serving_pid(Component::NodeAgent).filter(|pid| *pid != dead);
    awaiting::value("node-agent's return", SOON, back).await.unwrap();
}

async fn logs(story: &Story, text: &str) {
    let says = |line: &serde_json::Value| {
        line["message"].as_str().is_some_and(|message| message.contains(text))
    };
    story.logs(Component::NodeAgent, SOON, says).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_another_name_starts_while_safe_is_away_and_gets_what_changed_afterwards() {
    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    a_pod_has_gone(&story).await;
    story.crash(Component::Safe).await.unwrap();
    // also with a successor
    node_agent_is_killed(&story).await;

    let second = story.create_pod(PodSpec::new("second").workload("web")).unwrap();
    second.ready(SOON).await.unwrap();
    assert_eq!(second.read("a").await.unwrap(), b"1");
    logs(&story, "starts from the snapshot that this node holds").await;
    // and one that comes beside it
    let third = story.create_pod(PodSpec::new("third").workload("web")).unwrap();
    third.ready(SOON).await.unwrap();
    // whoever has another key has nothing
    let elsewhere = PodSpec::new("fourth").workload("web").namespace("elsewhere");
    let elsewhere = story.create_pod(elsewhere).unwrap();
    let event = elsewhere.waits(SOON).await.unwrap();
    assert!(event.contains("Safe is unreachable since"), "{event}");
    // it is provisional for a successor as well
    node_agent_is_killed(&story).await;
    assert_eq!(second.read("secrets.json").await.unwrap(), br#"{"a":"1"}"#);

    let mut rotations = awaiting::Rotations::watch(second.path()).unwrap();
    story.start_component(Component::Safe).await.unwrap();
    story.register("web", "default", br#"{"a":"2"}"#).await.unwrap();
    rotations.next(SOON).await.unwrap();
    assert_eq!(second.read("a").await.unwrap(), b"2");
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_retained_a_pod_waits_for_safe() {
    let story = retaining("0").await;
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    a_pod_has_gone(&story).await;
    story.crash(Component::Safe).await.unwrap();
    let second = story.create_pod(PodSpec::new("second").workload("web")).unwrap();
    let event = second.waits(SOON).await.unwrap();
    assert!(event.contains("Safe is unreachable since"), "{event}");
    story.start_component(Component::Safe).await.unwrap();
    second.ready(SOON).await.unwrap();
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_while_no_pod_was_there_starts_none() {
    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    a_pod_has_gone(&story).await;
    logs(&story, "it is retained for a pod that comes while Safe is away").await;
    story.unregister("web", "default").await.unwrap();
    let second = story.create_pod(PodSpec::new("second").workload("web")).unwrap();
    let event = second.waits(SOON).await.unwrap();
    assert!(event.contains("was deleted at"), "{event}");
    // what Safe has said once counts while it is away, too
    story.crash(Component::Safe).await.unwrap();
    node_agent_is_killed(&story).await;
    let third = story.create_pod(PodSpec::new("third").workload("web")).unwrap();
    let event = third.waits(SOON).await.unwrap();
    assert!(event.contains("Safe is unreachable since"), "{event}");
    story.start_component(Component::Safe).await.unwrap();
    story.register("web", "default", br#"{"a":"2"}"#).await.unwrap();
    for pod in [second, third] {
        pod.ready(SOON).await.unwrap();
        assert_eq!(pod.read("a").await.unwrap(), b"2");
    }
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_content_goes_when_safe_has_not_confirmed_it_for_long() {
    let story = retaining("1s").await;
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    a_pod_has_gone(&story).await;
    logs(&story, "content is retained no longer").await;
    story.crash(Component::Safe).await.unwrap();
    let second = story.create_pod(PodSpec::new("second").workload("web")).unwrap();
    let event = second.waits(SOON).await.unwrap();
    assert!(event.contains("Safe is unreachable since"), "{event}");
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_comes_while_safe_is_away_takes_the_files_at_its_second() {
    const LIFE: Duration = Duration::from_secs(8);
    let story = story::start().await.unwrap();
    let operator = Operator::of(&story);
    let (expires, end) = (OffsetDateTime::now_utc() + LIFE, Instant::now() + LIFE);
    let value = br#"{"a":"1"}"#;
    operator.put_until("web", "default", value, Some(expires)).await.unwrap();
    operator.put_until("gone", "default", value, Some(expires)).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    let gone = story.create_pod(PodSpec::new("gone")).unwrap();
    gone.ready(SOON).await.unwrap();
    story.delete_pod(&gone, SOON).await.unwrap();
    story.crash(Component::Safe).await.unwrap();
    node_agent_is_killed(&story).await;
    assert_eq!(pod.read("a").await.unwrap(), b"1");
    assert!(Instant::now() < end, "the machine is too slow for this story");

    until("the files' end", SOON, || !pod.path().join("a").exists()).await.unwrap();
    let early = end.saturating_duration_since(Instant::now());
    assert!(early < Duration::from_millis(50), "the files went {early:?} early");
    // what was retained has come to its end as well, and nothing comes back
    node_agent_is_killed(&story).await;
    assert!(!pod.path().join("a").exists());
    let late = story.create_pod(PodSpec::new("late").workload("gone")).unwrap();
    let event = late.waits(SOON).await.unwrap();
    assert!(event.contains("Safe is unreachable since"), "{event}");

    story.start_component(Component::Safe).await.unwrap();
    story.register("web", "default", br#"{"a":"2"}"#).await.unwrap();
    until("the new value", SOON, || pod.path().join("a").exists()).await.unwrap();
    assert_eq!(pod.read("a").await.unwrap(), b"2");
    story.end().await.unwrap();
}
