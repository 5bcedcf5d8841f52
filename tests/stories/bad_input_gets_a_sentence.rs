//! [I10]: what is wrong, where, what to do; nothing changed.

use vsecm_tests::{
    Component, Playground, PodSpec,
    story::{self, SOON},
    users::Users,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_cli_refuses_what_cannot_be_and_changes_nothing() {
    let story = story::start().await.unwrap();
    let large = vec![b'x'; 1024 * 1024 + 1];
    let cases: [(&[&str], &[u8], &str); 8] = [
        (&["-w", "web", "-s", "-"], b"", "empty"),
        (&["-w", "web", "-s", "-"], &large, "1048576"),
        (&["-w", "no/name", "-s", "-"], b"x", "no/name"),
        (&["-w", "..", "-s", "-"], b"x", ".."),
        (&["-w", "web", "-n", "Not-A-Label", "-s", "-"], b"x", "Not-A-Label"),
        (&["-s", "-"], b"x", "workload"),
        (&["-w", "web"], b"", "-s"),
        (&["-w", "web", "-w", "a b", "-s", "-"], b"x", "a b"),
    ];
    for (args, stdin, named) in cases {
        let refused = story.safe(args, stdin).await.unwrap();
        assert_eq!(refused.code, Some(2), "{args:?}: {refused:?}");
        assert!(refused.stderr.contains(named), "{args:?}: {}", refused.stderr);
    }
    let listed = story.safe(&["-l", "--output", "json"], b"").await.unwrap();
    assert_eq!(listed.code, Some(0), "{listed:?}");
    assert!(!listed.stdout.contains("web"), "{}", listed.stdout);
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_or_malformed_attributes_are_refused_by_name() {
    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    for (key, value) in [
        ("colour", "blue"),
        ("layout", "round"),
        ("document", "a/b"),
        ("document", "..data"),
        ("mode", "0999"),
        ("mode", "01777"),
        ("optional", "perhaps"),
        ("onWithdraw", "cry"),
    ] {
        let pod = story.create_pod(PodSpec::new("web").attribute(key, value)).unwrap();
        let event = pod.waits(SOON).await.unwrap();
        assert!(event.contains("InvalidArgument"), "{key}={value}: {event}");
        assert!(event.contains(key), "{key}={value}: {event}");
        story.delete_pod(&pod, SOON).await.unwrap();
    }
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_is_not_json_is_one_file() {
    let story = story::start().await.unwrap();
    story.register("web", "default", b"\x00\xffnot json\n").await.unwrap();
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    assert_eq!(pod.names().await.unwrap(), ["secrets.json"]);
    let document = pod.read("secrets.json").await.unwrap();
    assert_eq!(document, b"\x00\xffnot json\n");
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_document_is_one_file_even_if_it_is_json() {
    let story = story::start().await.unwrap();
    let value = br#"{"a":"1"}"#;
    let args = ["-w", "web", "-f", "raw", "-s", "-"];
    let done = story.safe(&args, value).await.unwrap();
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    assert_eq!(pod.names().await.unwrap(), ["secrets.json"]);
    assert_eq!(pod.read("secrets.json").await.unwrap(), value);
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_no_file_names_are_in_the_document_only_and_named_in_the_log() {
    let story = story::start().await.unwrap();
    let long = "k".repeat(256);
    let value = format!(r#"{{"good":"1","a/b":"2","..":"3","":"4","{long}":"5"}}"#);
    story.register("web", "default", value.as_bytes()).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    assert_eq!(pod.names().await.unwrap(), ["good", "secrets.json"]);
    assert_eq!(pod.read("secrets.json").await.unwrap(), value.as_bytes());
    let named = |line: &serde_json::Value| line.to_string().contains("a/b");
    story.logs(Component::NodeAgent, SOON, named).await.unwrap();
    story.end().await.unwrap();
}

/// In a user namespace with one id there is no other group to be shown.
fn is_of_group(story: &Playground, metadata: &std::fs::Metadata) {
    if story.users() == Users::Own {
        assert_eq!(std::os::unix::fs::MetadataExt::gid(metadata), 4711);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_choose_layout_document_mode_and_group() {
    use std::os::unix::fs::MetadataExt as _;

    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    let spec = PodSpec::new("web")
        .attribute("layout", "document")
        .attribute("document", "all.json")
        .attribute("mode", "0400")
        .fs_group(4711);
    let pod = story.create_pod(spec).unwrap();
    pod.ready(SOON).await.unwrap();
    assert_eq!(pod.names().await.unwrap(), ["all.json"]);
    let metadata = std::fs::metadata(pod.path().join("all.json")).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o400);
    is_of_group(&story, &metadata);

    let plain = story.create_pod(PodSpec::new("web-1").workload("web")).unwrap();
    plain.ready(SOON).await.unwrap();
    let metadata = std::fs::metadata(plain.path().join("a")).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o444);
    let group = story.create_pod(PodSpec::new("web-2").workload("web").fs_group(4711)).unwrap();
    group.ready(SOON).await.unwrap();
    let metadata = std::fs::metadata(group.path().join("a")).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o440);
    is_of_group(&story, &metadata);
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optional_volume_is_ready_at_once_and_fills_when_the_secret_comes() {
    let story = story::start().await.unwrap();
    let pod = story.create_pod(PodSpec::new("web").attribute("optional", "true")).unwrap();
    pod.ready(SOON).await.unwrap();
    assert!(pod.names().await.unwrap().is_empty());
    let mut rotations = vsecm_tests::awaiting::Rotations::watch(pod.path()).unwrap();
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    rotations.next(SOON).await.unwrap();
    vsecm_tests::awaiting::until("the file", SOON, || pod.path().join("a").exists()).await.unwrap();
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_by_root_in_the_pod_is_refused() {
    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    let volume = pod.path();
    for refused in [
        std::fs::write(volume.join("a"), "x"),
        std::fs::write(volume.join("new"), "x"),
        std::fs::remove_file(volume.join("a")),
        std::fs::create_dir(volume.join("folder")),
        std::fs::rename(volume.join("a"), volume.join("b")),
        std::os::unix::fs::symlink("x", volume.join("..data_tmp")),
    ] {
        assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }
    assert_eq!(pod.read("a").await.unwrap(), b"1");
    story.end().await.unwrap();
}
