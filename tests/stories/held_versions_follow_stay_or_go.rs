//! `onRotate`: what becomes of subPath mounts, open descriptors and mappings of an older version.

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    sync::Arc,
    time::Duration,
};

use nix::sys::signal::Signal;
use rustix::fs::{Advice, fadvise};
use time::OffsetDateTime;
use vsecm_tests::{
    Component, Playground, Pod, PodSpec,
    awaiting::{Rotations, until},
    story::{self, SOON, Story},
    watching::Watching,
};

use crate::support::{
    mapping::Mapping,
    operator::Operator,
    subpath::{self, SubPath},
};

const ESTALE: i32 = 116;
const MODES: [&str; 3] = ["follow", "keep", "revoke"];

/// Content of different sizes, so that a size that is not right shows.
fn value(number: usize) -> String {
    format!("version {number}").repeat(1 + number * 7)
}

fn document(number: usize) -> String {
    let value = value(number);
    format!("{{\"a\":\"{value}\",\"b\":\"{value}\"}}")
}

/// Waits until the pod sees a version.
async fn rotate(story: &Story, operator: &Operator, pod: &Pod, number: usize) {
    let mut rotations = Rotations::watch(pod.path()).unwrap();
    operator.put("web", "default", document(number).as_bytes()).await.unwrap();
    rotations.next(SOON).await.unwrap();
    assert!(story.is_running(Component::NodeAgent));
}

/// The whole of what is open, as a program reads it that opened it once.
fn reread(file: &File) -> io::Result<String> {
    let mut bytes = vec![0; 64 * 1024];
    let length = file.read_at(&mut bytes, 0)?;
    bytes.truncate(length);
    Ok(String::from_utf8(bytes).unwrap())
}

fn is_stale<T>(read: &io::Result<T>) -> bool {
    read.as_ref().is_err_and(|error| error.raw_os_error() == Some(ESTALE))
}

async fn pod(story: &Playground, mode: &str) -> Arc<Pod> {
    let spec = PodSpec::new(&format!("web-{mode}")).workload("web").attribute("onRotate", mode);
    let pod = story.create_pod(spec).unwrap();
    pod.ready(SOON).await.unwrap();
    pod
}

async fn comes_to_read(mount: &SubPath, expected: &str) {
    let what = format!("{} to read {:?} …", mount.path().display(), expected.get(..12));
    until(&what, SOON, || mount.text().is_ok_and(|text| text == expected)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_of_a_file_and_of_a_folder_follow_also_after_every_death_and_nothing_else_does() {
    let story = story::start().await.unwrap();
    let operator = Operator::of(&story);
    operator.put("web", "default", document(0).as_bytes()).await.unwrap();
    let pod = pod(&story, "follow").await;
    let file = subpath::find(&story, &pod, "a", "file").bind();
    let folder = subpath::find(&story, &pod, "..data", "folder").bind();
    let in_folder = folder.path().join("a");
    let opened_once = File::open(file.path()).unwrap();
    let held = File::open(pod.path().join("b")).unwrap();
    assert_eq!(reread(&opened_once).unwrap(), value(0));

    let check = async |number: usize| {
        comes_to_read(&file, &value(number)).await;
        // from that moment on all of it is new
        assert_eq!(reread(&opened_once).unwrap(), value(number), "who opened it once");
        assert_eq!(opened_once.metadata().unwrap().len(), value(number).len() as u64);
        let read = || std::fs::read_to_string(&in_folder).is_ok_and(|text| text == value(number));
        until("the folder to follow", SOON, read).await.unwrap();
    };
    let keeps = || assert_eq!(reread(&held).unwrap(), value(0), "a descriptor keeps its version");
    rotate(&story, &operator, &pod, 1).await;
    check(1).await;
    rotate(&story, &operator, &pod, 2).await;
    check(2).await;
    keeps();

    let dead = story.crash(Component::NodeAgent).await.unwrap();
    let is_back = || story.serving_pid(Component::NodeAgent).is_some_and(|pid| pid != dead);
    until("node-agent's return", SOON, is_back).await.unwrap();
    check(2).await;
    rotate(&story, &operator, &pod, 3).await;
    check(3).await;

    story.crash(Component::Csi).await.unwrap();
    story.start_component(Component::Csi).await.unwrap();
    rotate(&story, &operator, &pod, 1).await;
    check(1).await;

    // a name that vanishes, and one that comes
    let mut rotations = Rotations::watch(pod.path()).unwrap();
    operator.put("web", "default", br#"{"b":"1","c":"2"}"#).await.unwrap();
    rotations.next(SOON).await.unwrap();
    until("the file's end", SOON, || is_stale(&file.text())).await.unwrap();
    assert!(is_stale(&reread(&opened_once)));
    assert!(std::fs::symlink_metadata(file.path()).is_ok(), "the kubelet looks at it");
    let has = |name| folder.path().join(name).exists();
    until("the names of the folder", SOON, || has("c") && !has("a")).await.unwrap();
    rotate(&story, &operator, &pod, 4).await;
    check(4).await;
    drop(opened_once);
    let file = file.restart(&story, &pod, "a", "file").unwrap();
    let folder = folder.restart(&story, &pod, "..data", "folder").unwrap();
    rotate(&story, &operator, &pod, 5).await;
    comes_to_read(&file, &value(5)).await;
    drop((file, folder));
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_of_a_folder_in_a_version_and_of_a_file_in_it_follow() {
    let story = story::start().await.unwrap();
    let operator = Operator::of(&story);
    operator.put("web", "default", document(0).as_bytes()).await.unwrap();
    let spec = PodSpec::new("web").attribute("items", "a=conf/a,b=conf/deep/b");
    let pod = story.create_pod(spec).unwrap();
    pod.ready(SOON).await.unwrap();
    let folder = subpath::find(&story, &pod, "conf", "folder").bind();
    let file = subpath::find(&story, &pod, "conf/deep/b", "file").bind();
    let read = |path: &str| std::fs::read_to_string(folder.path().join(path));
    assert_eq!(read("deep/b").unwrap(), value(0));
    for number in 1..=3 {
        let before = pod.path().join(std::fs::read_link(pod.path().join("..data")).unwrap());
        rotate(&story, &operator, &pod, number).await;
        comes_to_read(&file, &value(number)).await;
        for path in ["a", "deep/b"] {
            let follows = || read(path).is_ok_and(|text| text == value(number));
            until(path, SOON, follows).await.unwrap();
        }
        until("the end of the old version", SOON, || !before.exists()).await.unwrap();
        assert_eq!(pod.read("conf/deep/b").await.unwrap(), value(number).as_bytes());
    }
    drop((folder, file));
    // without a mount csi removes the folders themselves
    let mut watch = Watching::begin(&pod.path().join("..data")).unwrap();
    rotate(&story, &operator, &pod, 4).await;
    until("the end of the folder", SOON, || watch.has_seen("DELETE,ISDIR conf")).await.unwrap();
    until("the end of the version", SOON, || watch.has_seen("DELETE_SELF")).await.unwrap();
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_starts_though_its_file_is_replaced_while_it_is_about_to() {
    let story = story::start().await.unwrap();
    let operator = Operator::of(&story);
    operator.put("web", "default", document(0).as_bytes()).await.unwrap();
    for (number, mode) in (1..).zip(MODES) {
        let pod = pod(&story, mode).await;
        // the kubelet has mounted it, the runtime has not: that fails once, as with a Secret volume
        let mount = subpath::find(&story, &pod, "a", "main").bind();
        rotate(&story, &operator, &pod, number).await;
        let unlinked = || mount.start().is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
        until("the end of the file's name", SOON, unlinked).await.unwrap();
        let mount = mount.restart(&story, &pod, "a", "main").expect("the next try starts it");
        assert_eq!(mount.text().unwrap(), value(number), "{mode}");
        drop(mount);
        story.delete_pod(&pod, SOON).await.unwrap();
    }
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_keep_a_mount_keeps_its_version_also_when_its_pages_and_node_agent_are_gone() {
    let story = story::start().await.unwrap();
    let operator = Operator::of(&story);
    operator.put("web", "default", document(0).as_bytes()).await.unwrap();
    let pod = pod(&story, "keep").await;
    let mount = subpath::find(&story, &pod, "a", "main").bind();
    for number in 1..=3 {
        rotate(&story, &operator, &pod, number).await;
    }
    // until the last of its folders is gone, csi has told of the mount several times
    let folders = || {
        let names = std::fs::read_dir(pod.path()).unwrap();
        names.filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_dir()).count()
    };
    until("the end of the old folders", SOON, || folders() == 1).await.unwrap();
    let said = |line: &serde_json::Value| line.to_string().contains("keep their versions");
    story.logs(Component::NodeAgent, SOON, said).await.unwrap();
    for _death in 0..2 {
        let dead = story.crash(Component::NodeAgent).await.unwrap();
        let is_back = || story.serving_pid(Component::NodeAgent).is_some_and(|pid| pid != dead);
        until("node-agent's return", SOON, is_back).await.unwrap();
        let held = File::open(mount.path()).unwrap();
        fadvise(&held, 0, None, Advice::DontNeed).unwrap();
        assert_eq!(reread(&held).unwrap(), value(0));
        assert_eq!(pod.read("a").await.unwrap(), value(3).as_bytes());
    }
    let mount = mount.restart(&story, &pod, "a", "main").unwrap();
    assert_eq!(mount.text().unwrap(), value(3), "the container starts again with what is there");
    drop(mount);
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_revoke_nothing_of_an_older_version_can_be_read_from_the_swap_on() {
    let story = story::start().await.unwrap();
    let operator = Operator::of(&story);
    operator.put("web", "default", document(0).as_bytes()).await.unwrap();
    let pod = pod(&story, "revoke").await;
    let mount = subpath::find(&story, &pod, "a", "main").bind();
    let held = File::open(pod.path().join("a")).unwrap();
    let mapping = Mapping::of(&pod.path().join("b"));
    assert_eq!(reread(&held).unwrap(), value(0));
    rotate(&story, &operator, &pod, 1).await;
    until("the end of what is held", Duration::from_secs(1), || is_stale(&reread(&held)))
        .await
        .unwrap();
    assert!(is_stale(&mount.text()));
    assert_eq!(mapping.touch(), Some(Signal::SIGBUS as i32));
    assert_eq!(held.metadata().unwrap().nlink(), 0);
    assert_eq!(pod.read("a").await.unwrap(), value(1).as_bytes());

    let dead = story.crash(Component::NodeAgent).await.unwrap();
    let is_back = || story.serving_pid(Component::NodeAgent).is_some_and(|pid| pid != dead);
    until("node-agent's return", SOON, is_back).await.unwrap();
    assert!(is_stale(&reread(&held)));
    // also after a take-over the kubelet can look at what is mounted
    let mount = mount.restart(&story, &pod, "a", "main").expect("its container starts again");
    assert_eq!(mount.text().unwrap(), value(1));
    drop(mount);
    story.end().await.unwrap();
}

/// All that can be held of a version.
struct Holdings {
    pod: Arc<Pod>,
    mount: SubPath,
    held: File,
    mapping: Mapping,
}

impl Holdings {
    async fn of(story: &Playground, mode: &str) -> Self {
        let pod = pod(story, mode).await;
        let mount = subpath::find(story, &pod, "a", "main").bind();
        let held = File::open(pod.path().join("a")).unwrap();
        assert_eq!(reread(&held).unwrap(), value(0));
        assert_eq!(mount.text().unwrap(), value(0));
        let mapping = Mapping::of(&pod.path().join("b"));
        Self { pod, mount, held, mapping }
    }

    async fn are_gone(self) {
        let Self { pod, mount, held, mapping } = self;
        let name = &pod.spec().name;
        let is_gone = || is_stale(&reread(&held)) && is_stale(&mount.text());
        until(&format!("the end of what {name} holds"), SOON, is_gone).await.unwrap();
        assert_eq!(mapping.touch(), Some(Signal::SIGBUS as i32), "{name}");
        std::fs::symlink_metadata(mount.path()).expect("the kubelet looks at it");
        until("the end of the names", SOON, || !pod.path().join("a").exists()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_of_a_deleted_secret_goes_in_every_mode_also_while_csi_is_away() {
    let story = story::start().await.unwrap();
    let operator = Operator::of(&story);
    operator.put("web", "default", document(0).as_bytes()).await.unwrap();
    let mut holdings = Vec::new();
    for mode in MODES {
        holdings.push(Holdings::of(&story, mode).await);
    }
    story.crash(Component::Csi).await.unwrap();
    story.unregister("web", "default").await.unwrap();
    for holdings in &holdings {
        until("the end", SOON, || is_stale(&reread(&holdings.held))).await.unwrap();
    }
    let dead = story.crash(Component::NodeAgent).await.unwrap();
    let is_back = || story.serving_pid(Component::NodeAgent).is_some_and(|pid| pid != dead);
    until("node-agent's return", SOON, is_back).await.unwrap();
    for Holdings { held, mount, .. } in &holdings {
        assert!(is_stale(&reread(held)) && is_stale(&mount.text()), "nothing comes back");
    }
    story.start_component(Component::Csi).await.unwrap();
    for holdings in holdings {
        holdings.are_gone().await;
    }
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_of_an_expired_secret_goes_in_every_mode() {
    let story = story::start().await.unwrap();
    let operator = Operator::of(&story);
    let expires = OffsetDateTime::now_utc() + Duration::from_secs(6);
    let document = document(0);
    operator.put_until("web", "default", document.as_bytes(), Some(expires)).await.unwrap();
    let mut holdings = Vec::new();
    for mode in MODES {
        holdings.push(Holdings::of(&story, mode).await);
    }
    assert!(OffsetDateTime::now_utc() < expires, "the machine is too slow for this story");
    for holdings in holdings {
        holdings.are_gone().await;
    }
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_goes_with_the_identity_where_the_pod_asks_for_it_and_stays_elsewhere() {
    let story = story::start().await.unwrap();
    let operator = Operator::of(&story);
    operator.put("web", "default", document(0).as_bytes()).await.unwrap();
    let spec = PodSpec::new("web-gone").workload("web").attribute("onWithdraw", "revoke");
    let gone = story.create_pod(spec).unwrap();
    gone.ready(SOON).await.unwrap();
    let stays = pod(&story, "revoke").await;
    let open = |pod: &Pod| File::open(pod.path().join("a")).unwrap();
    let (of_gone, of_stays) = (open(&gone), open(&stays));
    assert_eq!(reread(&of_gone).unwrap(), value(0));
    let mapping = Mapping::of(&gone.path().join("b"));
    assert!(story.withdraw_identity(&gone) && story.withdraw_identity(&stays));
    until("the end of what is held", SOON, || is_stale(&reread(&of_gone))).await.unwrap();
    assert_eq!(mapping.touch(), Some(Signal::SIGBUS as i32));
    let said = |line: &serde_json::Value| {
        let line = line.to_string();
        line.contains("withdrawn") && line.contains("web-revoke")
    };
    story.logs(Component::NodeAgent, SOON, said).await.unwrap();
    assert_eq!(reread(&of_stays).unwrap(), value(0));
    story.end().await.unwrap();
}
