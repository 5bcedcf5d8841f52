//! `audit: opens`: who opened which version of which file, and no reader pays for it with an error.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use nix::sys::signal::Signal;
use serde_json::Value;
use vsecm_tests::{
    Component, Pod, PodSpec,
    awaiting::{self, Rotations},
    story::{self, SOON, Story},
    users::Users,
};

use crate::support::{operator::Operator, reading::Hammers};

const KILLS: u32 = 30;

fn audited(name: &str) -> PodSpec {
    PodSpec::new(name).attribute("audit", "opens")
}

fn is_audit(line: &Value) -> bool {
    line["target"] == "audit"
}

/// node-agent's audit lines, once there are that many.
async fn lines(story: &Story, count: usize) -> Vec<Value> {
    let enough = || {
        let mut lines = story.log_lines(Component::NodeAgent).ok()?;
        lines.retain(is_audit);
        (lines.len() >= count).then_some(lines)
    };
    awaiting::value("audit lines", SOON, enough).await.unwrap()
}

/// A control group as a container's, where this machine lets us make one.
struct ContainerGroup(PathBuf);

impl ContainerGroup {
    fn make(pod: &Pod, id: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let hierarchies = mounts.lines().filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (at, kind) = (words.next()?, words.next()?);
            kind.starts_with("cgroup").then(|| PathBuf::from(at))
        });
        let below = format!("kubepods/besteffort/pod{}/{id}", pod.uid());
        hierarchies.map(|at| at.join(&below)).find_map(|group| {
            // cpuset takes nobody before it is set up
            let is_plain = !group.starts_with("/sys/fs/cgroup/cpuset");
            (is_plain && fs::create_dir_all(&group).is_ok()).then_some(Self(group))
        })
    }
}

impl Drop for ContainerGroup {
    fn drop(&mut self) {
        // only the folders that are ours and empty go; others may have some beside them
        for folder in self.0.ancestors().take(4) {
            if fs::remove_dir(folder).is_err() {
                return;
            }
        }
    }
}

/// `cat` of a file, as another user where there are others, in a control group where there is one.
fn cat(volume: &Path, file: &str, user: Option<u32>, group: Option<&ContainerGroup>) -> u32 {
    let join = group.map(|group| format!("echo $$ > {}/cgroup.procs && ", group.0.display()));
    let user = user.map(|id| format!("setpriv --reuid={id} --regid={id} --clear-groups "));
    let script = format!("{}exec {}cat {file}", join.unwrap_or_default(), user.unwrap_or_default());
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .current_dir(volume)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let pid = child.id();
    assert!(child.wait().unwrap().success(), "{script}");
    pid
}

#[tokio::test(flavor = "multi_thread")]
async fn each_open_is_a_line_that_one_query_finds_beside_safes() {
    const ID: &str = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";
    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"canary-1","b":"2"}"#).await.unwrap();
    let pod = story.create_pod(audited("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    let group = ContainerGroup::make(&pod, ID);
    let user = (story.users() == Users::Own).then_some(65_534);
    let first = cat(pod.path(), "a", None, group.as_ref());
    let second = cat(pod.path(), "secrets.json", user, None);
    let opens = lines(&story, 2).await;
    assert_eq!(opens.len(), 2, "{opens:#?}");
    let (one, two) = (&opens[0], &opens[1]);
    assert_eq!((&one["pid"], &two["pid"]), (&Value::from(first), &Value::from(second)));
    assert_eq!((&one["file"], &two["file"]), (&Value::from("a"), &Value::from("secrets.json")));
    assert_eq!(two["uid"], Value::from(user.unwrap_or_default()), "{two}");
    for open in &opens {
        assert_eq!((&open["command"], &open["outcome"]), (&"cat".into(), &"opened".into()));
        assert_eq!((&open["pod"], &open["namespace"]), (&"web".into(), &"default".into()));
        assert_eq!(open["pod_uid"], pod.uid());
        assert_eq!(open["actor"], "spiffe://vsecm.com/workload/web/ns/default/sa/default/n/web");
        assert!(open["opened_at"].as_str().unwrap().ends_with('Z'), "{open}");
    }
    match group {
        Some(_) => assert_eq!((&one["reader"], &one["container"]), (&"pod".into(), &ID.into())),
        None => assert_eq!(one["reader"], "node"),
    }
    assert_eq!((&two["reader"], &two["container"]), (&"node".into(), &Value::Null));
    // one query for both
    let about = |line: &Value| {
        is_audit(line) && line["secret"] == one["secret"] && line["revision"] == one["revision"]
    };
    let safes = story.audit().unwrap();
    let put = safes.iter().find(|line| about(line) && line["action"] == "put").unwrap();
    for key in put.as_object().unwrap().keys().filter(|key| *key != "context") {
        assert!(one.get(key).is_some(), "{key} is not said of an open");
    }
    let log = story.log(Component::NodeAgent).unwrap();
    assert!(!log.contains("canary"), "a value stands in the log");
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_audit_nothing_is_asked_and_nothing_written() {
    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    // content first, then the times, which a first read makes uncertain
    for _ in 0..3 {
        assert_eq!(pod.read("a").await.unwrap(), b"1");
    }
    // stopped, it can answer nothing
    story.kill(Component::NodeAgent, Signal::SIGSTOP).unwrap();
    for _ in 0..100 {
        assert_eq!(pod.read("a").await.unwrap(), b"1");
    }
    story.kill(Component::NodeAgent, Signal::SIGCONT).unwrap();
    assert!(story.log_lines(Component::NodeAgent).unwrap().iter().all(|line| !is_audit(line)));
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_of_node_agent_fail_no_audited_read() {
    let story = story::start().await.unwrap();
    let operator = Operator::of(&story);
    operator.put("web", "default", br#"{"a":"000000"}"#).await.unwrap();
    let pod = story.create_pod(audited("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    let strike = |volume: &Path| {
        let text = fs::read_to_string(volume.join("a")).map_err(|e| format!("read: {e}"))?;
        if text.len() == 6 { Ok(()) } else { Err(format!("torn: {text}")) }
    };
    let hammers = Hammers::start(3, pod.path(), strike);
    for number in 1..=KILLS {
        let dead = story.crash(Component::NodeAgent).await.unwrap();
        let back = || story.serving_pid(Component::NodeAgent).filter(|pid| *pid != dead);
        awaiting::value("node-agent's return", SOON, back).await.unwrap();
        if number % 10 == 0 {
            let mut rotations = Rotations::watch(pod.path()).unwrap();
            let document = format!(r#"{{"a":"{number:06}"}}"#);
            operator.put("web", "default", document.as_bytes()).await.unwrap();
            rotations.next(SOON).await.unwrap();
        }
    }
    let rounds = hammers.stop().await;
    assert!(rounds > u64::from(KILLS), "the readers hardly read: {rounds}");
    // the last to come knows whose pod it is, also before SPIRE has said so again
    let opens = lines(&story, 1).await;
    let (opened, others): (Vec<_>, Vec<_>) =
        opens.iter().partition(|line| line["outcome"] == "opened");
    assert!(opened.iter().all(|line| line["actor"] != ""));
    // on a machine that is busy the log can be slower than three readers: that is said
    assert!(others.iter().all(|line| line["outcome"] == "dropped"), "{others:#?}");
    let dropped: u64 = others.iter().filter_map(|line| line["dropped"].as_u64()).sum();
    let lines = u64::try_from(opened.len()).unwrap();
    assert!(lines + dropped > rounds / 2, "{lines} and {dropped} of {rounds}");
    println!("{rounds} audited reads, {lines} lines, {dropped} dropped, {KILLS} kills, 0 failures");
    story.end().await.unwrap();
}
