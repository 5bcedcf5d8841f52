//! Safe knows which pod has what and which waits, by the pods' own word where that can be.

use tonic::Code;
use vsecm_safe_api::{
    metadata,
    position::Shown,
    proto::{self, nodes_client::NodesClient},
    state::State,
};
use vsecm_tests::{
    Component, PodSpec,
    authority::ca::Lifetime,
    awaiting,
    story::{self, SOON, Story},
};

use crate::support::{
    attacker,
    delivered::{all_show, audited, until},
    operator::Operator,
    workload,
};

const TWINS: [&str; 3] = ["web-0", "web-1", "web-2"];

/// Three pods of one key, which show revision 1.
async fn twins() -> (Story, Operator) {
    let story = story::start().await.unwrap();
    let operator = Operator::of(&story);
    assert_eq!(operator.put("web", "default", br#"{"a":"1"}"#).await.unwrap(), 1);
    for name in TWINS {
        story.create_pod(PodSpec::new(name).workload("web")).unwrap().ready(SOON).await.unwrap();
    }
    all_show(&operator, &TWINS, 1).await;
    (story, operator)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_is_acknowledged_by_every_pod_of_a_key_under_its_own_name() {
    let (story, operator) = twins().await;
    operator.put("web", "default", br#"{"a":"2"}"#).await.unwrap();
    let known = all_show(&operator, &TWINS, 2).await;
    for (delivery, name) in known.deliveries.iter().zip(TWINS) {
        let id = format!("spiffe://vsecm.com/workload/web/ns/default/sa/default/n/{name}");
        assert_eq!(delivery.spiffe_id, id);
        assert_eq!((&*delivery.node, delivery.as_of), ("playground", None));
        let own = audited(&story, "acknowledge", "shown");
        assert!(own.iter().any(|line| line.to_string().contains(&id)), "{own:?}");
    }
    assert!(known.waiting.is_empty(), "{known:?}");

    let gone = story.pod("default", "web-1").unwrap();
    story.delete_pod(&gone, SOON).await.unwrap();
    all_show(&operator, &["web-0", "web-2"], 2).await;
    let withdrawn = audited(&story, "report", "withdrawn");
    assert_eq!(withdrawn.len(), 1, "{withdrawn:?}");
    assert!(withdrawn[0].to_string().contains("/n/web-1"), "{withdrawn:?}");

    story.unregister("web", "default").await.unwrap();
    let is_empty = |delivery: &proto::Delivery| delivery.is_empty;
    until(&operator, "the deletion in both pods", |known| {
        known.deliveries.len() == 2 && known.deliveries.iter().all(is_empty)
    })
    .await;
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_pod_is_listed_with_its_reason_until_it_has_its_secret() {
    let story = story::start().await.unwrap();
    let operator = Operator::of(&story);
    let pod = story.create_pod(PodSpec::new("late").unregistered()).unwrap();
    let known =
        until(&operator, "a pod without identity", |k| k.reason("late") == Some("no_entry")).await;
    let waiting = &known.waiting[0];
    assert_eq!((&waiting.key, &*waiting.node, waiting.as_of), (&None, "playground", None));
    let said = waiting.waiting.as_ref().unwrap();
    assert!(said.sentence.contains("no SPIRE entry for pod default/late"), "{said:?}");
    let since = said.since;

    story.grant_identity(&pod).unwrap();
    let known =
        until(&operator, "its secret's turn", |k| k.reason("late") == Some("not_registered")).await;
    assert_eq!(known.waiting[0].key, Some(crate::support::operator::key("late", "default")));
    assert_eq!(known.waiting[0].waiting.as_ref().unwrap().since, since, "it waits since then");

    let revision = operator.put("late", "default", br#"{"a":"1"}"#).await.unwrap();
    pod.ready(SOON).await.unwrap();
    let known = all_show(&operator, &["late"], revision).await;
    let is_over = |known: &crate::support::delivered::Known| known.waiting.is_empty();
    if !is_over(&known) {
        until(&operator, "the end of its wait", is_over).await;
    }

    let other = story.create_pod(PodSpec::new("never").unregistered()).unwrap();
    until(&operator, "another pod", |known| known.reason("never").is_some()).await;
    story.delete_pod(&other, SOON).await.unwrap();
    until(&operator, "the end of it", is_over).await;
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_acknowledgement_is_refused_and_audited() {
    let (story, operator) = twins().await;
    let document = br#"{"a":"1"}"#;
    operator.put("other", "default", document).await.unwrap();
    // an SVID of the workload, as a pod has that was not given the watch
    let svid = workload::svid(&story, "web", "default");
    let mut client = workload::client(&story, Some(&svid));
    let State::Present(snapshot) = workload::fetch(&mut client).await.unwrap() else {
        panic!("it is registered")
    };
    let shown = Shown::from(&snapshot.position);
    let of = |shown: &Shown, watch: &str| proto::AcknowledgeRequest {
        position: Some(shown.into()),
        node: "forged".to_owned(),
        watch: watch.to_owned(),
        origin: String::new(),
    };
    let others_svid = workload::svid(&story, "other", "default");
    let mut others = workload::client(&story, Some(&others_svid));
    let opened = others.watch(proto::WatchRequest { have: None }).await.unwrap();
    let others_watch = opened.metadata().get(metadata::WATCH).unwrap().to_str().unwrap().to_owned();
    let mut others_states = opened.into_inner();
    workload::next(&mut others_states).await.unwrap();
    let unsent = Shown { revision: shown.revision.next(), ..shown.clone() };
    let own = client.watch(proto::WatchRequest { have: None }).await.unwrap();
    let own_watch = own.metadata().get(metadata::WATCH).unwrap().to_str().unwrap().to_owned();
    for (forged, code) in [
        (of(&shown, ""), Code::FailedPrecondition),
        (of(&shown, &"0".repeat(32)), Code::FailedPrecondition),
        (of(&shown, &others_watch), Code::PermissionDenied),
        (of(&unsent, &own_watch), Code::FailedPrecondition),
    ] {
        let refusal = client.acknowledge(forged).await.unwrap_err();
        assert_eq!(refusal.code(), code, "{refusal}");
        assert!(refusal.message().contains("the acknowledgement"), "{refusal}");
    }
    let refused = audited(&story, "acknowledge", "refused");
    assert_eq!(refused.len(), 4, "{refused:?}");
    all_show(&operator, &TWINS, 1).await;
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_agents_word_withdraws_nothing() {
    let (story, operator) = twins().await;
    let id = "spiffe://vsecm.com/vsecm-node-agent".parse().unwrap();
    let lifetime = Lifetime::Once(std::time::Duration::from_mins(5));
    let svid = story.authority().issue(&id, lifetime).unwrap();
    let channel = attacker::channel(&attacker::address(&story), Some((&svid).into()));
    // it claims to be the node, and that the node has no pods but one that waits
    let waiting = proto::PodReport {
        namespace: "default".to_owned(),
        name: "web-0".to_owned(),
        waiting: Some(proto::Waiting {
            since: Some(vsecm_safe_api::wire::timestamp(time::OffsetDateTime::now_utc())),
            reason: "no_entry".to_owned(),
            sentence: "a lie".to_owned(),
        }),
        ..proto::PodReport::default()
    };
    let report = proto::NodeReport {
        node: "playground".to_owned(),
        origin: "0".repeat(32),
        pods: vec![waiting],
        more: false,
    };
    let endless = futures_util::StreamExt::chain(
        futures_util::stream::iter([report]),
        futures_util::stream::pending(),
    );
    let mut answers = NodesClient::new(channel).report(endless).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().number, 1);
    let known = all_show(&operator, &TWINS, 1).await;
    assert_eq!(known.reason("web-0"), Some("no_entry"), "a claim is shown as one");
    // its end is the end of what it said, after a while; what is proved stays
    drop(answers);
    all_show(&operator, &TWINS, 1).await;
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_start_of_safe_deliveries_come_back_by_themselves() {
    let (story, operator) = twins().await;
    story.create_pod(PodSpec::new("late").unregistered()).unwrap();
    until(&operator, "a pod that waits", |known| known.reason("late").is_some()).await;
    story.crash(Component::Safe).await.unwrap();
    story.start_component(Component::Safe).await.unwrap();
    let operator = Operator::of(&story);
    let known = all_show(&operator, &TWINS, 1).await;
    if known.reason("late").is_none() {
        until(&operator, "the pod that waits", |known| known.reason("late").is_some()).await;
    }
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_agents_successor_speaks_for_its_pods() {
    let (story, operator) = twins().await;
    let dead = story.crash(Component::NodeAgent).await.unwrap();
    let back = || story.serving_pid(Component::NodeAgent).filter(|pid| *pid != dead);
    awaiting::value("node-agent's return", SOON, back).await.unwrap();
    let known = until(&operator, "the successor's report", |known| {
        known.deliveries.iter().all(|delivery| delivery.as_of.is_none())
    })
    .await;
    assert_eq!(known.shown(), TWINS.map(|name| (name, 1)));
    operator.put("web", "default", br#"{"a":"2"}"#).await.unwrap();
    all_show(&operator, &TWINS, 2).await;
    // what its predecessor said it may withdraw: the keeper held what proves that it may
    let gone = story.pod("default", "web-0").unwrap();
    story.crash(Component::NodeAgent).await.unwrap();
    story.delete_pod(&gone, SOON).await.unwrap();
    all_show(&operator, &["web-1", "web-2"], 2).await;
    story.end().await.unwrap();
}
