//! `onRotate` with the kubelet's subPath mounts: of a key, and of a folder, across restarts of the
//! containers that have them.

use crate::support::{
    awaiting::{self, SOON},
    container::{Container, STATE},
    created::Created,
    node::{self, processes_of},
    pod::Pod,
    story::Story,
};

const STORY: &str = "s31_sub_paths_follow_keep_or_go";

const KEY: &str = "/etc/key";
const FOLDER: &str = "/etc/folder";

fn document(number: u32) -> String {
    let value = format!("version {number}");
    serde_json::json!({ "key": value, "other": format!("{value} of many") }).to_string()
}

/// As a program that opens its file once, and as one that opens it again each time.
const READERS: &str = r"exec 3< /etc/key
while :; do
    cat /etc/key > /state/again.new 2>&1; mv /state/again.new /state/again
    dd bs=64 count=1 iflag=fullblock < /proc/self/fd/3 > /state/once.new 2>/dev/null; mv /state/once.new /state/once
    usleep 100000
done";

fn create(story: &Story, mode: &str) -> Created {
    let reader = Container::shell("reader", READERS).without_volume().sub_path("key", KEY);
    let single =
        Container::idle("single").without_volume().sub_path("key", KEY).sub_path("..data", FOLDER);
    let containers = [Container::idle("main"), reader, single];
    let pod = Pod::of("web").named(&format!("web-{mode}")).attribute("onRotate", mode);
    let pod = story.create(&pod.containers(containers));
    pod.ready(SOON);
    pod
}

/// Ends a container, which the kubelet starts again with its mounts.
fn restart(pod: &Created, container: &str) {
    let before = pod.restarts(container);
    let pids = processes_of(&pod.container_id(container));
    let first = pids.first().expect("the container runs").to_string();
    assert!(std::process::Command::new("kill").args(["-9", &first]).status().unwrap().success());
    awaiting::value("the container's restart", awaiting::PATIENTLY, || {
        let restarts = pod.restarts(container);
        if restarts > before { Ok(()) } else { Err(format!("{restarts} restarts")) }
    });
    pod.ready(awaiting::PATIENTLY);
}

#[test]
fn a_key_and_a_folder_follow_and_a_container_restarts_with_them() {
    let story = Story::begin(STORY);
    story.register("web", &document(1));
    let pod = create(&story, "follow");
    for number in 2..=4 {
        story.register("web", &document(number));
        let value = format!("version {number}");
        pod.comes_to_read("key", &value, SOON);
        pod.comes_to_read_in("single", KEY, &value, SOON);
        pod.comes_to_read_in("single", &format!("{FOLDER}/key"), &value, SOON);
        for way in ["again", "once"] {
            pod.comes_to_read_in("reader", &format!("{STATE}/{way}"), &value, SOON);
        }
    }
    assert_eq!(pod.restarts("reader"), 0);
    if node::all(STORY).is_none() {
        return;
    }
    restart(&pod, "single");
    pod.comes_to_read_in("single", KEY, "version 4", SOON);
    story.register("web", &document(5));
    pod.comes_to_read_in("single", KEY, "version 5", SOON);
    pod.comes_to_read_in("single", &format!("{FOLDER}/key"), "version 5", SOON);
}

#[test]
fn with_keep_a_key_keeps_its_version_until_its_container_restarts() {
    let story = Story::begin(STORY);
    story.register("web", &document(1));
    let pod = create(&story, "keep");
    story.register("web", &document(2));
    pod.comes_to_read("key", "version 2", SOON);
    assert_eq!(pod.exec("single", &["cat", KEY]).ok(), "version 1");
    if node::all(STORY).is_none() {
        return;
    }
    restart(&pod, "single");
    // the kubelet sees that the subPath leads elsewhere now, and mounts that
    pod.comes_to_read_in("single", KEY, "version 2", SOON);
}

#[test]
fn with_revoke_a_key_cannot_be_read_until_its_container_restarts() {
    let story = Story::begin(STORY);
    story.register("web", &document(1));
    let pod = create(&story, "revoke");
    story.register("web", &document(2));
    pod.comes_to_read("key", "version 2", SOON);
    let refused = pod.exec("single", &["cat", KEY]).refused();
    assert!(refused.contains("Stale file handle"), "{refused}");
    if node::all(STORY).is_none() {
        return;
    }
    restart(&pod, "single");
    pod.comes_to_read_in("single", KEY, "version 2", SOON);
}
