//! [I9]: the keeper holds all content, and looks at none.

use std::{fs, os::unix::fs::MetadataExt as _};

use vsecm_tests::{
    Component, PodSpec,
    story::{self, SOON},
};

/// What a process has mapped, and whether anybody could look into it: its files in /proc are
/// its own user's where it is dumpable, and root's where it is not.
#[tokio::test(flavor = "multi_thread")]
async fn the_keeper_maps_no_content_and_nobody_can_look_into_it() {
    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    // it has been there and back
    story.crash(Component::NodeAgent).await.unwrap();
    assert_eq!(pod.read("secrets.json").await.unwrap(), br#"{"a":"1"}"#);
    let keeper = story.serving_pid(Component::Keeper).unwrap();
    let held = fs::read_dir(format!("/proc/{keeper}/fd"));
    let maps = fs::read_to_string(format!("/proc/{keeper}/maps"));
    let (held, maps) = match (held, maps) {
        (Ok(held), Ok(maps)) => (held, maps),
        // in a user namespace not even its root may: so it is not dumpable, and no more can be seen
        (Err(error), _) | (_, Err(error)) => {
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{error}");
            return story.end().await.unwrap();
        }
    };
    let owner = fs::metadata(format!("/proc/{keeper}/maps")).unwrap().uid();
    assert_eq!(owner, 0, "it is its own user's, so it is dumpable");
    let links = held.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    let memfds = links.filter(|link| link.to_string_lossy().contains("memfd:vsecm")).count();
    assert!(memfds >= 2, "content and binding are held: {memfds}");
    assert!(!maps.contains("memfd"), "{maps}");
    assert!(!maps.lines().any(|line| line.contains("rw-s")), "{maps}");
    story.end().await.unwrap();
}
