//! [I7]: a canary goes all ways that a secret can go, and is nowhere but where it belongs.

use vsecm_safe_api::{
    position::{Digest, Lineage, Position, Revision},
    state::{Format, Snapshot, State},
    value::SecretValue,
};
use vsecm_tests::{
    Component, Options, PodSpec,
    awaiting::Rotations,
    story::{self, SOON},
};

const CANARY: &str = "canary-7f3a91c2d4";
const SECOND: &str = "canary-b81e5f60aa";

#[tokio::test(flavor = "multi_thread")]
async fn no_log_error_audit_line_command_line_environment_or_file_has_the_value() {
    let options = Options {
        hold: std::time::Duration::from_secs(2),
        log_filter: "trace".to_owned(),
        ..Options::default()
    };
    let story = story::start_with(options).await.unwrap();
    let value = format!(r#"{{"password":"{CANARY}","a/b":"{CANARY}"}}"#);
    story.register("web", "default", value.as_bytes()).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    assert_eq!(pod.read("password").await.unwrap(), CANARY.as_bytes());

    let mut rotations = Rotations::watch(pod.path()).unwrap();
    story
        .register("web", "default", format!("{{\"password\":\"{SECOND}\"}}").as_bytes())
        .await
        .unwrap();
    rotations.next(SOON).await.unwrap();
    story.crash(Component::NodeAgent).await.unwrap();
    story.crash(Component::Safe).await.unwrap();
    let refused = story.safe(&["-w", "web", "-s", "-"], CANARY.as_bytes()).await.unwrap();
    assert_ne!(refused.code, Some(0));
    story.start_component(Component::Safe).await.unwrap();
    let misspelt = story.safe(&["-w", "no/name", "-s", CANARY], b"").await.unwrap();
    assert_ne!(misspelt.code, Some(0));
    let listed = story.safe(&["-l"], b"").await.unwrap();
    for said in [&refused, &misspelt, &listed] {
        let text = format!("{}{}", said.stdout, said.stderr);
        assert!(!text.contains("canary-"), "{text}");
    }
    assert_eq!(pod.read("password").await.unwrap(), SECOND.as_bytes());
    for canary in [CANARY, SECOND] {
        let traces = story.traces_of(canary.as_bytes()).unwrap();
        assert!(traces.is_empty(), "{traces:?}");
    }
    story.end().await.unwrap();
}

#[test]
fn no_debug_output_has_the_value() {
    let document = SecretValue::new(CANARY.as_bytes().to_vec()).unwrap();
    let now = time::OffsetDateTime::UNIX_EPOCH;
    let state = State::Present(Snapshot {
        position: Position {
            lineage: Lineage::from_random([1; 16]),
            revision: Revision(1),
            digest: Digest::of(Format::Json, CANARY.as_bytes()),
        },
        document,
        format: Format::Json,
        created: now,
        updated: now,
        expires: None,
    });
    let debug = format!("{state:?} {state:#?}");
    assert!(!debug.contains(CANARY), "{debug}");
    let listed = format!("{:?}", CANARY.as_bytes());
    assert!(!debug.contains(&listed), "{debug}");
}
