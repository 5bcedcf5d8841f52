//! [I6]: the death of a process breaks no mount.

use std::{fs, path::Path};

use vsecm_tests::{
    Component, PodSpec,
    awaiting::{self, Rotations},
    story::{self, SOON},
};

use crate::support::{operator::Operator, reading::Hammers};

const KILLS: u32 = 100;

fn document(number: u32) -> String {
    format!(r#"{{"a":"{number:06}","b":"{}"}}"#, format!("{number:06}").repeat(2000))
}

fn strike(volume: &Path) -> Result<(), String> {
    let whole =
        fs::read_to_string(volume.join("secrets.json")).map_err(|e| format!("read: {e}"))?;
    let number = whole.get(6..12).and_then(|n| n.parse().ok()).ok_or("torn")?;
    if whole == document(number) { Ok(()) } else { Err(format!("torn: {number}")) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_kills_of_node_agent_fail_no_read() {
    let story = story::start().await.unwrap();
    let operator = Operator::of(&story);
    operator.put("web", "default", document(0).as_bytes()).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    let hammers = Hammers::start(3, pod.path(), strike);
    for number in 1..=KILLS {
        let dead = story.crash(Component::NodeAgent).await.unwrap();
        let back = || story.serving_pid(Component::NodeAgent).filter(|pid| *pid != dead);
        awaiting::value("node-agent's return", SOON, back).await.unwrap();
        // every tenth time a rotation proves that the successor does all of its work
        if number % 10 == 0 {
            let mut rotations = Rotations::watch(pod.path()).unwrap();
            operator.put("web", "default", document(number).as_bytes()).await.unwrap();
            rotations.next(SOON).await.unwrap();
        }
    }
    let rounds = hammers.stop().await;
    assert!(rounds > u64::from(KILLS), "the readers hardly read: {rounds}");
    assert_eq!(pod.read("a").await.unwrap(), format!("{KILLS:06}").as_bytes());
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn csi_comes_back_with_its_volumes() {
    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    let mut rotations = Rotations::watch(pod.path()).unwrap();
    story.crash(Component::Csi).await.unwrap();
    assert_eq!(pod.read("a").await.unwrap(), b"1");
    story.start_component(Component::Csi).await.unwrap();
    story.register("web", "default", br#"{"a":"2"}"#).await.unwrap();
    rotations.next(SOON).await.unwrap();
    assert_eq!(pod.read("a").await.unwrap(), b"2");
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_served_from_memory_while_safe_and_node_agent_have_died() {
    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"1","never-read":"2"}"#).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    story.crash(Component::Safe).await.unwrap();
    story.crash(Component::NodeAgent).await.unwrap();
    // not in the kernel's cache: a successor without Safe must answer
    assert_eq!(pod.read("never-read").await.unwrap(), b"2");
    story.start_component(Component::Safe).await.unwrap();
    story.end().await.unwrap();
}
