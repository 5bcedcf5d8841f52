//! What safe refuses at its start, in a sentence and with nothing changed.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use vsecm_tests::{
    Component,
    story::{self, Story},
};

async fn stopped() -> Story {
    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    story.stop(Component::Safe).await.unwrap();
    story
}

/// Starts safe, which must refuse; what it says.
async fn refusal(story: &Story) -> String {
    let said = story.start_component(Component::Safe).await.unwrap_err().to_string();
    assert!(!story.is_running(Component::Safe));
    said
}

async fn works_again(story: Story) {
    story.start_component(Component::Safe).await.unwrap();
    let listed = story.safe(&["-l", "--output", "json"], b"").await.unwrap();
    assert!(listed.stdout.contains("web"), "{listed:?}");
    story.end().await.unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Puts other content into a file, whose owner and mode stay.
fn overwrite(path: &Path, content: &[u8]) {
    let before = fs::metadata(path).unwrap();
    set_mode(path, 0o600);
    fs::write(path, content).unwrap();
    set_mode(path, before.mode() & 0o777);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_key_that_others_can_read_or_write_is_refused() {
    let story = stopped().await;
    let key = story.layout().root_key();
    let mode = fs::metadata(&key).unwrap().mode() & 0o777;
    for bad in [0o604, 0o644, 0o602, 0o620] {
        set_mode(&key, bad);
        let said = refusal(&story).await;
        assert!(said.contains(&key.display().to_string()), "{bad:o}: {said}");
    }
    set_mode(&key, mode);
    works_again(story).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_blank_key_beside_records_is_never_replaced() {
    let story = stopped().await;
    let path = story.layout().root_key();
    let key = fs::read(&path).unwrap();
    for blank in [&b""[..], b"{}", b"\n"] {
        overwrite(&path, blank);
        let said = refusal(&story).await;
        assert!(said.contains("fingerprint"), "{said}");
        assert_eq!(fs::read(&path).unwrap(), blank);
    }
    overwrite(&path, &key);
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).unwrap();
    let said = refusal(&story).await;
    assert!(said.contains("fingerprint"), "{said}");
    assert!(!path.exists(), "a new key was made beside records of another");
    fs::rename(&aside, &path).unwrap();
    works_again(story).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_malformed_or_whose_lines_disagree_is_refused() {
    let story = stopped().await;
    let path = story.layout().root_key();
    let key = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = key.lines().collect();
    assert_eq!(lines.len(), 3);
    let other = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
    for bad in [
        lines[..2].join("\n"),
        [lines[0], other, lines[2]].join("\n"),
        [lines[0], lines[1], "00"].join("\n"),
        ["AGE-SECRET-KEY-1NONSENSE", lines[1], lines[2]].join("\n"),
    ] {
        overwrite(&path, bad.as_bytes());
        let said = refusal(&story).await;
        assert!(said.contains("root key") || said.contains(&path.display().to_string()), "{said}");
        assert!(!said.contains("AGE-SECRET-KEY"), "{said}");
    }
    overwrite(&path, key.as_bytes());
    works_again(story).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_is_set_aside_and_the_others_are_served() {
    use vsecm_safe_api::state::{Reason, State};

    use crate::support::workload;

    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    story.register("db", "default", br#"{"a":"2"}"#).await.unwrap();
    story.stop(Component::Safe).await.unwrap();
    let damaged = find(&story.layout().safe_data(), "web").expect("web has a record");
    let mut bytes = fs::read(&damaged).unwrap();
    let last = bytes.len() - 20;
    bytes[last] ^= 1;
    overwrite(&damaged, &bytes);
    story.start_component(Component::Safe).await.unwrap();
    let svid = workload::svid(&story, "db", "default");
    let whole = workload::fetch(&mut workload::client(&story, Some(&svid))).await.unwrap();
    assert_eq!(workload::document(&whole), Some(&br#"{"a":"2"}"#[..]));
    let svid = workload::svid(&story, "web", "default");
    match workload::fetch(&mut workload::client(&story, Some(&svid))).await.unwrap() {
        State::Absent(absent) => assert_eq!(absent.reason, Reason::Unreadable),
        State::Present(_) => panic!("a damaged record was served"),
    }
    let log = story.log(Component::Safe).unwrap();
    assert!(log.contains("\"ERROR\"") && log.contains("web"), "{log}");
    // a new value heals it
    story.register("web", "default", br#"{"a":"3"}"#).await.unwrap();
    let healed = workload::fetch(&mut workload::client(&story, Some(&svid))).await.unwrap();
    assert_eq!(workload::document(&healed), Some(&br#"{"a":"3"}"#[..]));
    story.end().await.unwrap();
}

fn find(folder: &Path, part: &str) -> Option<std::path::PathBuf> {
    fs::read_dir(folder).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return find(&path, part);
        }
        let name = path.file_name()?.to_str()?.to_owned();
        name.contains(part).then_some(path)
    })
}
