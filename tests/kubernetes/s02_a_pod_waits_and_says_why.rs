//! A pod waits for its secret and says which command registers it; that command works as printed.

use std::time::Duration;

use crate::support::{awaiting::SOON, pod::Pod, program::Program, story::Story};

/// csi holds a publish call before it says why: for 110 s unless the chart's values say otherwise.
pub(crate) const HOLD: Duration = Duration::from_secs(150);

const VALUE: &str = r#"{"username":"admin","password":"correct horse"}"#;

/// The command in `kubectl describe pod`, as a person copies it.
fn printed_command(description: &str) -> &str {
    let (_, rest) = description.split_once("register it with: ").expect("a command");
    let (command, _) = rest.split_once(" (the value on stdin)").expect("the end of the command");
    command
}

#[test]
fn a_pod_waits_says_which_command_helps_and_runs_once_it_was_run() {
    let story = Story::begin("s02_a_pod_waits_and_says_why");
    story.will_delete(&story.namespace(), "billing");
    let pod = story.create(&Pod::of("billing"));
    pod.waits_saying("no secret named billing", HOLD);
    assert!(!pod.has_started(), "a container started without its secret");

    let description = pod.describe();
    let command = printed_command(&description);
    Program::new("sh").args(["-c", command]).stdin(VALUE).run().ok();
    pod.ready(SOON);

    assert_eq!(pod.read("secrets.json"), VALUE);
    assert_eq!(pod.read("password"), "correct horse");
    assert_eq!(pod.exec("main", &["id", "-u"]).ok().trim(), "1000");
    let status = pod.exec("main", &["cat", "/proc/self/status"]).ok();
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        let line = format!("{set}:\t0000000000000000");
        assert!(status.contains(&line), "capabilities are left: {status}");
    }
    let root = pod.exec("main", &["sh", "-c", "echo > /file"]).refused();
    assert!(root.contains("Read-only file system"), "{root}");
    let volume = pod.exec("main", &["sh", "-c", "echo > /vsecm/password"]).refused();
    assert!(volume.contains("Read-only file system"), "{volume}");
}
