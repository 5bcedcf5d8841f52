//! SPIRE renews every SVID at half of its life, and a Watch ends with the SVID that opened it. Who
//! follows a secret must have dialled again before that.

use std::time::Duration;

use serde_json::Value;
use vsecm_tests::{
    Component, Options, PodSpec,
    awaiting::Rotations,
    story::{self, SOON, Story},
};

/// Longer than the life of the first SVID several times over.
const RENEWALS: usize = 6;

fn lines_with(story: &Story, text: &str, pod: &str) -> usize {
    let lines = story.log_lines(Component::NodeAgent).unwrap();
    let fits = |line: &&Value| {
        let line = line.to_string();
        line.contains(text) && line.contains(pod)
    };
    lines.iter().filter(fits).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn rotations_arrive_without_a_gap_over_many_renewals() {
    let options = Options { svid_lifetime: Duration::from_secs(4), ..Options::default() };
    let story = story::start_with(options).await.unwrap();
    story.register("web", "default", br#"{"a":"0"}"#).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    let mut rotations = Rotations::watch(pod.path()).unwrap();
    let mut number = 0;
    while lines_with(&story, "an identity was issued", "web") <= RENEWALS {
        number += 1;
        let value = format!(r#"{{"a":"{number}"}}"#);
        story.register("web", "default", value.as_bytes()).await.unwrap();
        rotations.next(SOON).await.unwrap();
        assert_eq!(pod.read_text("a").await.unwrap(), number.to_string());
    }
    // safe ends a watch at its SVID's end; none was left open until then
    assert_eq!(lines_with(&story, "the watch broke", "web"), 0);
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_outlives_the_pod_that_held_it() {
    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"0"}"#).await.unwrap();
    let pod = |name: &str| story.create_pod(PodSpec::new(name).workload("web"));
    let mut before = pod("web-0").unwrap();
    before.ready(SOON).await.unwrap();
    // whichever of two pods holds the watch, it goes in one of these rounds
    for round in 1..=3 {
        let next = pod(&format!("web-{round}")).unwrap();
        next.ready(SOON).await.unwrap();
        let mut rotations = Rotations::watch(next.path()).unwrap();
        story.delete_pod(&before, SOON).await.unwrap();
        let value = format!(r#"{{"a":"{round}"}}"#);
        story.register("web", "default", value.as_bytes()).await.unwrap();
        rotations.next(SOON).await.unwrap();
        assert_eq!(next.read_text("a").await.unwrap(), round.to_string());
        before = next;
    }
    story.end().await.unwrap();
}
