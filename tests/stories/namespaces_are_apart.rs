//! The key of a secret is (namespace, name) [I8].

use vsecm_safe_api::state::{Reason, State};
use vsecm_tests::{
    PodSpec,
    awaiting::Rotations,
    story::{self, SOON},
};

use crate::support::workload;

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_of_another_namespace_sees_nothing_and_waits() {
    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web").namespace("shop")).unwrap();
    let event = pod.waits(SOON).await.unwrap();
    assert!(event.contains("-n shop"), "{event}");
    assert!(!pod.path().join("a").exists());
    let svid = workload::svid(&story, "web", "shop");
    let mut client = workload::client(&story, Some(&svid));
    match workload::fetch(&mut client).await.unwrap() {
        State::Absent(absent) => assert_eq!(absent.reason, Reason::NotRegistered),
        State::Present(_) => panic!("a secret of another namespace was given out"),
    }
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_or_delete_touches_the_given_namespaces_only() {
    let story = story::start().await.unwrap();
    let both = ["-w", "web", "-n", "a", "-n", "b", "-s", "-"];
    let done = story.safe(&both, br#"{"k":"old"}"#).await.unwrap();
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let in_a = story.create_pod(PodSpec::new("web").namespace("a")).unwrap();
    let in_b = story.create_pod(PodSpec::new("web").namespace("b")).unwrap();
    in_a.ready(SOON).await.unwrap();
    in_b.ready(SOON).await.unwrap();

    let mut rotations = Rotations::watch(in_a.path()).unwrap();
    story.register("web", "a", br#"{"k":"new"}"#).await.unwrap();
    rotations.next(SOON).await.unwrap();
    assert_eq!(in_a.read("k").await.unwrap(), b"new");
    assert_eq!(in_b.read("k").await.unwrap(), b"old");

    story.unregister("web", "a").await.unwrap();
    rotations.next(SOON).await.unwrap();
    let listed = story.safe(&["-l", "--output", "json"], b"").await.unwrap();
    assert!(listed.stdout.contains("\"b\""), "{}", listed.stdout);
    assert_eq!(in_b.read("k").await.unwrap(), b"old");
    story.end().await.unwrap();
}
