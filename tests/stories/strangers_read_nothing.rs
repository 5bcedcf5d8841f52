//! Who has no right hears nothing [I8].

use std::time::Duration;

use tonic::Code;
use vsecm_safe_api::proto::{self, admin_client::AdminClient};
use vsecm_tests::{
    Playground,
    authority::{Svid, ca::Lifetime},
    story::{self, Story},
};

use crate::support::{attacker, workload};

async fn story_with_a_secret() -> Story {
    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    story
}

/// No RPC gets anything past the handshake.
async fn is_turned_away(story: &Playground, svid: Option<&Svid>) {
    let mut client = workload::client(story, svid);
    let status = workload::fetch(&mut client).await.unwrap_err();
    assert!(workload::is_broken_connection(&status), "{status:?}");
    let watched = match workload::watch(&mut client).await {
        Ok(mut stream) => workload::next(&mut stream).await.unwrap_err(),
        Err(status) => status,
    };
    assert!(workload::is_broken_connection(&watched), "{watched:?}");
    let mut admin =
        AdminClient::new(attacker::channel(&attacker::address(story), svid.map(Into::into)));
    assert!(admin.list(proto::ListRequest {}).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_an_svid_reads_nothing() {
    let story = story_with_a_secret().await;
    is_turned_away(&story, None).await;
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_svid_of_another_trust_domain_reads_nothing() {
    let story = story_with_a_secret().await;
    let id = "spiffe://other.org/workload/web/ns/default/sa/default/n/web".parse().unwrap();
    let lifetime = Lifetime::Once(Duration::from_mins(5));
    let svid = story.authority().issue(&id, lifetime).unwrap();
    is_turned_away(&story, Some(&svid)).await;
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_svid_reads_nothing() {
    let story = story_with_a_secret().await;
    let lifetime = Lifetime::Expired(Duration::from_secs(30));
    let svid = story.authority().issue(&workload::id("web", "default"), lifetime).unwrap();
    is_turned_away(&story, Some(&svid)).await;
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn node_agents_own_svid_reads_nothing_and_is_told_so() {
    let story = story_with_a_secret().await;
    let id = "spiffe://vsecm.com/vsecm-node-agent".parse().unwrap();
    let lifetime = Lifetime::Once(Duration::from_mins(5));
    let svid = story.authority().issue(&id, lifetime).unwrap();
    let mut client = workload::client(&story, Some(&svid));
    let status = workload::fetch(&mut client).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    let watched = match workload::watch(&mut client).await {
        Ok(mut stream) => workload::next(&mut stream).await.unwrap_err(),
        Err(status) => status,
    };
    assert_eq!(watched.code(), Code::PermissionDenied, "{watched:?}");
    let audit = serde_json::to_string(&story.audit().unwrap()).unwrap();
    assert!(audit.contains("spiffe://vsecm.com/vsecm-node-agent"), "{audit}");
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_is_refused_on_every_admin_rpc() {
    let story = story_with_a_secret().await;
    let svid = workload::svid(&story, "web", "default");
    let channel = attacker::channel(&attacker::address(&story), Some((&svid).into()));
    crate::delegates_have_no_admin_rights::is_refused_everywhere(&story, channel, None).await;
    story.end().await.unwrap();
}
