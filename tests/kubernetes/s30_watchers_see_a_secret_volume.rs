//! In one pod, a Secret volume of Kubernetes and one of ours: watchers of both see the same events.

use std::path::{Path, PathBuf};

use serde_json::json;
use vsecm_tests::watching::Watching;

use crate::support::{
    awaiting::{self, SOON},
    container::{Container, VOLUME},
    created::Created,
    node::{self, processes_of},
    pod::Pod,
    story::Story,
};

const STORY: &str = "s30_watchers_see_a_secret_volume";

/// Where the container has the Secret volume.
const SECRET: &str = "/secret";

/// The kubelet looks at a Secret again when its time has come: up to a sync period and a cache's
/// lifetime later.
const KUBELETS_TURN: std::time::Duration = std::time::Duration::from_mins(4);

const WATCHED: [&str; 4] = ["", "..data", "stays", "goes"];

/// By `data`, as what `stringData` does not name any more stays in the Secret.
fn apply(story: &Story, values: &serde_json::Value) {
    let mut data = values.clone();
    for value in data.as_object_mut().unwrap().values_mut() {
        *value = match value.as_str().unwrap() {
            "1" => "MQ==".into(),
            "22" => "MjI=".into(),
            other => unreachable!("{other} in base64"),
        };
    }
    story.kubectl().apply(&json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "theirs" }, "data": data
    }));
}

fn root(pod: &Created) -> PathBuf {
    let pids = processes_of(&pod.container_id("main"));
    PathBuf::from(format!("/proc/{}/root", pids.first().expect("the container runs")))
}

fn watch_all(volume: &Path) -> Vec<Watching> {
    WATCHED.iter().map(|name| Watching::begin(&volume.join(name)).unwrap()).collect()
}

fn version_at(volume: &Path) -> String {
    std::fs::read_link(volume.join("..data")).unwrap().to_str().unwrap().to_owned()
}

/// With the versions' folders by the same names, and without the order in which a folder's files
/// are listed.
fn plain(seen: &[String], old: &str, new: &str) -> Vec<String> {
    let renamed = seen.iter().map(|event| event.replace(old, "..OLD").replace(new, "..NEW"));
    let mut seen: Vec<_> = renamed.filter(|event| event != "DELETE secrets.json").collect();
    let end = seen.iter().take_while(|event| event.starts_with("DELETE ")).count();
    seen[..end].sort();
    seen
}

#[test]
fn each_watch_sees_the_same_events_on_a_secret_volume_and_on_ours() {
    let story = Story::begin(STORY);
    if node::all(STORY).is_none() {
        return;
    }
    let (old, new) = (json!({"stays": "1", "goes": "1"}), json!({"stays": "22", "comes": "22"}));
    story.register("web", &old.to_string());
    apply(&story, &old);
    let main = Container::idle("main").volume("theirs", SECRET);
    let pod = Pod::of("web").secret_volume("theirs", "theirs").containers([main]);
    let pod = story.create(&pod);
    pod.ready(SOON);
    let volumes = [SECRET, VOLUME].map(|at| root(&pod).join(at.trim_start_matches('/')));
    let before = volumes.each_ref().map(|volume| version_at(volume));
    let mut watches = volumes.each_ref().map(|volume| watch_all(volume));

    story.register("web", &new.to_string());
    apply(&story, &new);
    let ends = before.each_ref().map(|version| format!("DELETE,ISDIR {version}"));
    for (watch, end) in watches.iter_mut().zip(&ends) {
        awaiting::value(end, KUBELETS_TURN, || {
            if watch[0].has_seen(end) { Ok(()) } else { Err(format!("{:?}", watch[0].seen())) }
        });
    }
    let after = volumes.each_ref().map(|volume| version_at(volume));
    let [theirs, ours] = &mut watches;
    for ((name, theirs), ours) in WATCHED.iter().zip(theirs).zip(ours) {
        let expected = plain(theirs.seen().unwrap(), &before[0], &after[0]);
        assert!(!expected.is_empty(), "a watch on {name:?}");
        let seen = plain(ours.seen().unwrap(), &before[1], &after[1]);
        assert_eq!(seen, expected, "a watch on {name:?}, then the Secret volume's");
    }
}
