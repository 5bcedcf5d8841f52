//! A server that holds some workload's SVID sits at Safe's address.

use serde_json::Value;
use vsecm_tests::{
    Component, PodSpec,
    story::{self, SOON},
};

use crate::support::{attacker, impostor::Impostor, workload};

const CANARY: &str = "correct-horse-battery-staple";

#[tokio::test(flavor = "multi_thread")]
async fn the_cli_gives_it_no_value_and_node_agent_no_trust() {
    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    story.stop(Component::Safe).await.unwrap();
    let svid = workload::svid(&story, "evil", "default");
    let met = svid.id().to_string();
    let impostor = Impostor::listen(&attacker::address(&story), &svid).await;

    let args = ["-w", "web", "-n", "default", "-s", "-"];
    let refused = story.safe(&args, CANARY.as_bytes()).await.unwrap();
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(refused.stderr.contains(&met), "{}", refused.stderr);

    let waiting = story.create_pod(PodSpec::new("db")).unwrap();
    let event = waiting.waits(SOON).await.unwrap();
    assert!(event.contains(&met), "{event}");
    let names_it = |line: &Value| line.to_string().contains(&met);
    story.logs(Component::NodeAgent, SOON, names_it).await.unwrap();

    impostor.met(2).await;
    let heard = impostor.heard();
    let canary = CANARY.as_bytes();
    assert!(!heard.windows(canary.len()).any(|part| part == canary), "the value was sent");
    assert_eq!(pod.read("a").await.unwrap(), b"1");
    drop(impostor);
    story.start_component(Component::Safe).await.unwrap();
    story.end().await.unwrap();
}
