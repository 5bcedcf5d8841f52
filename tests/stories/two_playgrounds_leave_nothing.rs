//! The program itself, as a user runs it: two at once, used from outside, ended by SIGTERM.

use std::{
    path::Path,
    process::{Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, Command},
    time::timeout,
};
use vsecm_tests::{awaiting::until, binaries, mounts, story::SOON};

fn program() -> Command {
    let mut command = Command::new(binaries::built().unwrap().join("vsecm-playground"));
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn up(folder: &Path) -> Child {
    let child = program().arg("up").arg(folder).stdout(Stdio::null()).spawn().unwrap();
    until("the file `ready`", SOON, || folder.join("ready").exists()).await.unwrap();
    child
}

async fn succeeds(command: &mut Command, stdin: &[u8]) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin).await.unwrap();
    let output: Output = timeout(SOON, child.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// `vsecm-playground shell DIR -- CMD`, the way in from any terminal.
fn inside(folder: &Path, words: &[&str]) -> Command {
    let mut command = program();
    command.arg("shell").arg(folder).arg("--").args(words);
    command
}

async fn is_used(folder: &Path, value: &str) {
    let register = ["safe", "-w", "web", "-n", "shop", "-s", "-"];
    succeeds(&mut inside(folder, &register), value.as_bytes()).await;
    let create =
        ["vsecm-playground", "pod", "create", "web-0", "--workload", "web", "--namespace", "shop"];
    let printed = succeeds(&mut inside(folder, &create), b"").await;
    let volume = printed.lines().last().unwrap().to_owned();
    assert!(volume.ends_with("/volumes/kubernetes.io~csi/vsecm/mount"), "{volume}");
    assert!(Path::new(&volume).starts_with(folder.join("kubelet/pods")), "{volume}");
    let link = folder.join("pods/shop/web-0/vsecm");
    assert_eq!(std::fs::read_link(&link).unwrap(), Path::new(&volume));
    let document = format!("{volume}/secrets.json");
    assert_eq!(succeeds(&mut inside(folder, &["cat", &document]), b"").await, value);

    let as_pod = [
        "vsecm-playground",
        "pod",
        "exec",
        "web-0",
        "--namespace",
        "shop",
        "--",
        "sh",
        "-c",
        "cat $VSECM_VOLUME/secrets.json; test -S ${SPIFFE_ENDPOINT_SOCKET#unix://}",
    ];
    assert_eq!(succeeds(&mut inside(folder, &as_pod), b"").await, value);
    let list = ["vsecm-playground", "pod", "list"];
    let listed = succeeds(&mut inside(folder, &list), b"").await;
    assert!(listed.contains("web-0") && listed.contains("shop"), "{listed}");
}

async fn ends(mut playground: Child, folder: &Path) {
    let pid = Pid::from_raw(i32::try_from(playground.id().unwrap()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    let status = timeout(SOON, playground.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
    assert!(mounts::below(folder).unwrap().is_empty());
    let sockets = sockets_below(folder);
    assert!(sockets.is_empty(), "{sockets:?}");
    let path = folder.display().to_string();
    let left: Vec<String> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("cmdline")).ok())
        .filter(|command| command.contains(&path))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

fn sockets_below(folder: &Path) -> Vec<std::path::PathBuf> {
    use std::os::unix::fs::FileTypeExt as _;

    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(sockets_below(&entry.path()));
        } else if kind.is_socket() {
            found.push(entry.path());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn they_run_side_by_side_and_sigterm_ends_all_of_each() {
    let folders =
        [TempDir::with_prefix("vsecm-a-").unwrap(), TempDir::with_prefix("vsecm-b-").unwrap()];
    let [one, other] = folders.each_ref().map(TempDir::path);
    let (first, second) = tokio::join!(up(one), up(other));
    is_used(one, r#"{"a":"1"}"#).await;
    is_used(other, r#"{"a":"2"}"#).await;
    ends(first, one).await;
    let document = other.join("pods/shop/web-0/vsecm/a");
    let still = succeeds(&mut inside(other, &["cat", document.to_str().unwrap()]), b"").await;
    assert_eq!(still, "2");
    ends(second, other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_holds_and_is_short_enough_to_read() {
    let told = succeeds(program().arg("demo"), b"").await;
    assert!(told.lines().count() <= 40, "{told}");
    assert!(told.contains("Cleaned up"), "{told}");
}
