//! TLS judges a certificate once; a Watch lives on. It must not outlive the certificate.

use std::time::{Duration, SystemTime};

use tonic::Code;
use vsecm_safe_api::proto;
use vsecm_tests::{
    authority::ca::Lifetime,
    story::{self, SOON},
};

use crate::support::{operator::Operator, workload};

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_comes_after_the_certificates_end() {
    let story = story::start().await.unwrap();
    let operator = Operator::of(&story);
    operator.put("web", "default", b"{\"a\":\"1\"}").await.unwrap();
    let lifetime = Lifetime::Once(Duration::from_secs(3));
    let svid = story.authority().issue(&workload::id("web", "default"), lifetime).unwrap();
    let mut client = workload::client(&story, Some(&svid));
    let mut stream = workload::watch(&mut client).await.unwrap();
    let first = workload::next(&mut stream).await.unwrap().unwrap();
    assert_eq!(workload::document(&first), Some(&b"{\"a\":\"1\"}"[..]));

    let left = svid.not_after().duration_since(SystemTime::now()).unwrap_or_default();
    tokio::time::sleep(left + Duration::from_millis(1)).await;
    operator.put("web", "default", b"{\"a\":\"2\"}").await.unwrap();
    let end = tokio::time::timeout(SOON, workload::next(&mut stream)).await.unwrap();
    assert_eq!(end.unwrap_err().code(), Code::Unauthenticated);
    let again = workload::fetch(&mut client).await.unwrap_err();
    assert!(
        again.code() == Code::Unauthenticated || workload::is_broken_connection(&again),
        "{again:?}"
    );
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_has_the_content_hears_of_the_next_only() {
    let story = story::start().await.unwrap();
    let operator = Operator::of(&story);
    operator.put("web", "default", b"{\"a\":\"1\"}").await.unwrap();
    let svid = workload::svid(&story, "web", "default");
    let mut client = workload::client(&story, Some(&svid));
    let fetched = client.fetch(proto::FetchRequest {}).await.unwrap().into_inner();
    let have = match fetched.state.unwrap().state.unwrap() {
        proto::state::State::Snapshot(snapshot) => snapshot.position,
        proto::state::State::Absent(_) => panic!("the secret is not there"),
    };
    let resumed = client.watch(proto::WatchRequest { have: have.clone() }).await.unwrap();
    let mut resumed = resumed.into_inner();
    let revision = operator.put("web", "default", b"{\"a\":\"2\"}").await.unwrap();
    let heard = workload::next(&mut resumed).await.unwrap().unwrap();
    assert_eq!(workload::document(&heard), Some(&b"{\"a\":\"2\"}"[..]), "revision {revision}");

    // any difference brings the whole snapshot
    let mut foreign = have.unwrap();
    foreign.lineage = "0".repeat(32);
    let request = proto::WatchRequest { have: Some(foreign) };
    let mut stream = client.watch(request).await.unwrap().into_inner();
    let whole = workload::next(&mut stream).await.unwrap().unwrap();
    assert_eq!(workload::document(&whole), Some(&b"{\"a\":\"2\"}"[..]));
    drop((resumed, stream, client));
    story.end().await.unwrap();
}
