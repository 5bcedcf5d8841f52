//! What pods do with volumes: fsGroup, one key by subPath, a second container, an init container.

use crate::support::{
    awaiting::SOON,
    container::{Container, STATE},
    pod::Pod,
    story::Story,
};

const OLD: &str = r#"{"username":"admin","password":"old"}"#;
const NEW: &str = r#"{"username":"admin","password":"a longer one"}"#;

/// Where the container `single` has the password alone.
const SINGLE: &str = "/etc/password";

#[test]
fn a_group_a_single_key_a_second_and_an_init_container_have_the_files() {
    let story = Story::begin("s04_pods_use_the_volume_in_every_way");
    story.register("shop", OLD);
    let copy = format!("cat /vsecm/password > {STATE}/copy");
    let single = Container::idle("single").without_volume().sub_path("password", SINGLE);
    let pod = Pod::of("shop").fs_group(2000).init(Container::shell("first", &copy)).containers([
        Container::idle("main"),
        Container::idle("second"),
        single,
    ]);
    let pod = story.create(&pod);
    pod.ready(SOON);

    let mode = ["stat", "-L", "-c", "%a %u %g", "/vsecm/secrets.json"];
    assert_eq!(pod.exec("main", &mode).ok().trim(), "440 0 2000");
    let copy = format!("{STATE}/copy");
    assert_eq!(pod.exec("main", &["cat", &copy]).ok(), "old", "the init container had the file");
    for container in ["main", "second"] {
        let document = pod.exec(container, &["cat", "/vsecm/secrets.json"]).ok();
        assert_eq!(document, OLD, "{container}");
    }
    assert_eq!(pod.exec("single", &["cat", SINGLE]).ok(), "old");
    let others = pod.exec("single", &["ls", "/vsecm"]).refused();
    assert!(others.contains("No such file"), "the other keys are there: {others}");

    story.register("shop", NEW);
    pod.comes_to_read("secrets.json", NEW, SOON);
    pod.comes_to_read_in("second", "/vsecm/secrets.json", NEW, SOON);
    // a mount of one file follows, as with no other volume
    pod.comes_to_read_in("single", SINGLE, "a longer one", SOON);
}

#[test]
fn a_file_of_mode_0400_is_refused_to_a_user_other_than_root() {
    let story = Story::begin("s04_pods_use_the_volume_in_every_way");
    story.register("shop", OLD);
    let pod = story.create(&Pod::of("shop").attribute("mode", "0400"));
    pod.ready(SOON);
    let refusal = pod.exec("main", &["cat", "/vsecm/password"]).refused();
    assert!(refusal.contains("Permission denied"), "{refusal}");
}
