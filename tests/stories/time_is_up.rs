//! Expiry is enforced at the second, without being asked.

use std::time::{Duration, Instant};

use time::OffsetDateTime;
use vsecm_safe_api::state::{Reason, State};
use vsecm_tests::{
    PodSpec,
    awaiting::until,
    story::{self, SOON},
};

use crate::support::{operator::Operator, workload};

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_secret_leaves_the_pod_and_does_not_come_back() {
    let story = story::start().await.unwrap();
    let operator = Operator::of(&story);
    operator.put("web", "default", b"{\"a\":\"old\"}").await.unwrap();
    let expires = OffsetDateTime::now_utc() + Duration::from_secs(3);
    let end = Instant::now() + Duration::from_secs(3);
    operator.put_until("web", "default", b"{\"a\":\"1\"}", Some(expires)).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    assert!(Instant::now() < end, "the machine is too slow for this story");
    assert!(pod.path().join("a").exists());
    until("the files' end", SOON, || !pod.path().join("a").exists()).await.unwrap();
    let early = end.saturating_duration_since(Instant::now());
    assert!(early < Duration::from_millis(50), "the files went {early:?} early");
    let svid = workload::svid(&story, "web", "default");
    match workload::fetch(&mut workload::client(&story, Some(&svid))).await.unwrap() {
        State::Absent(absent) => assert_eq!(absent.reason, Reason::Expired),
        State::Present(_) => panic!("an expired secret, or its predecessor, was given out"),
    }
    story.end().await.unwrap();
}
