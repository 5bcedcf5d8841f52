//! Attributes, formats, sizes, owners and times of the files that a pod sees.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use vsecm_tests::{
    Playground, PodSpec,
    awaiting::{Rotations, until},
    kubelet::volume::unhurried,
    story::{self, SOON},
    users::Users,
};

use crate::support::{operator::Operator, workload};

const NESTED: &[u8] =
    br#"{"user":"admin","db":{"password":"s3cr\u00e9t","port":5432,"tls.crt":"PEM"},"a.b":"dot"}"#;

/// All names below a folder that do not start with `..`, through its links.
fn walk(folder: &Path, below: &str, found: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().into_string().unwrap();
        let (path, shown) = (folder.join(&name), format!("{below}{name}"));
        if name.starts_with("..") {
            continue;
        }
        if fs::metadata(&path)?.is_dir() {
            walk(&path, &format!("{shown}/"), found)?;
        } else {
            found.push(shown);
        }
    }
    found.sort();
    Ok(())
}

async fn all_files(root: &Path) -> Vec<String> {
    let root = root.to_owned();
    unhurried(move || {
        let mut found = Vec::new();
        walk(&root, "", &mut found)?;
        Ok(found)
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn items_are_all_that_is_there_in_folders_and_follow_rotations() {
    let story = story::start().await.unwrap();
    story.register("web", "default", NESTED).await.unwrap();
    let items = r"db.password=db/pw:0400, db.tls\.crt = tls/a/crt, a.b=dot, .=all/document.json";
    let pod = story.create_pod(PodSpec::new("web").attribute("items", items)).unwrap();
    pod.ready(SOON).await.unwrap();
    let files = all_files(pod.path()).await;
    assert_eq!(files, ["all/document.json", "db/pw", "dot", "tls/a/crt"]);
    assert_eq!(pod.read("db/pw").await.unwrap(), "s3crét".as_bytes());
    assert_eq!(pod.read("tls/a/crt").await.unwrap(), b"PEM");
    assert_eq!(pod.read("dot").await.unwrap(), b"dot");
    assert_eq!(pod.read("all/document.json").await.unwrap(), NESTED);
    let mode = |name: &str| fs::metadata(pod.path().join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("db/pw"), mode("dot"), mode("tls/a")), (0o400, 0o444, 0o755));
    let link = fs::read_link(pod.path().join("tls")).unwrap();
    assert_eq!(link, Path::new("..data/tls"), "the first name of a path is the link");

    let mut rotations = Rotations::watch(pod.path()).unwrap();
    let held = fs::File::open(pod.path().join("tls/a/crt")).unwrap();
    let next = br#"{"db":{"password":"2","tls.crt":"longer than before"},"a.b":"x"}"#;
    story.register("web", "default", next).await.unwrap();
    rotations.next(SOON).await.unwrap();
    assert_eq!(pod.read("tls/a/crt").await.unwrap(), b"longer than before");
    assert_eq!(pod.read("all/document.json").await.unwrap(), next);
    assert_eq!(io::read_to_string(held).unwrap(), "PEM", "a held file keeps its version");

    // a key that goes takes its file along, and the folder that is empty then
    story.register("web", "default", br#"{"db":{"password":"3"},"a.b":"x"}"#).await.unwrap();
    rotations.next(SOON).await.unwrap();
    let is_gone = || fs::symlink_metadata(pod.path().join("tls")).is_err();
    until("the end of the folder's link", SOON, is_gone).await.unwrap();
    assert_eq!(all_files(pod.path()).await, ["all/document.json", "db/pw", "dot"]);
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_waits_for_a_key_that_its_items_name() {
    let story = story::start().await.unwrap();
    story.register("web", "default", NESTED).await.unwrap();
    let spec = PodSpec::new("web").attribute("items", "user=user,db.user=db/user");
    let pod = story.create_pod(spec).unwrap();
    let event = pod.waits(SOON + SOON).await.unwrap();
    let said = "the secret web in namespace default has no key \"db.user\"";
    assert!(event.contains(said), "{event}");
    story.register("web", "default", br#"{"user":"a","db":{"user":"b"}}"#).await.unwrap();
    pod.ready(SOON).await.unwrap();
    assert_eq!(pod.read("db/user").await.unwrap(), b"b");
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn items_that_cannot_be_are_refused_by_name() {
    let story = story::start().await.unwrap();
    story.register("web", "default", NESTED).await.unwrap();
    for (key, value, part) in [
        ("items", "user", "item 1 is not key=path"),
        ("items", "user=../x", "item 1 has a path"),
        ("items", "user=a,db=a/b", "items 1 and 2"),
        ("items", "user=secrets.json", "the document's name"),
        ("items", "user=u:0644", "item 1 has a mode"),
        ("mode", "0644", "no write bits"),
        ("mode", "4444", "setuid"),
        ("document", "a\u{1b}[2J", "control characters"),
    ] {
        let pod = story.create_pod(PodSpec::new("web").attribute(key, value)).unwrap();
        let event = pod.waits(SOON).await.unwrap();
        let is_named = event.contains("InvalidArgument") && event.contains(part);
        assert!(is_named, "{key}={value}: {event}");
        story.delete_pod(&pod, SOON).await.unwrap();
    }
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_yaml_document_has_a_file_per_key() {
    let story = story::start().await.unwrap();
    let yaml = b"PASSWORD: '*CasHC0w*'\nUSERNAME: '*root*'\nport: 05432\ndb:\n    hosts:\n        - a\n        - b\n    port: 1.50\n";
    let args = ["-w", "web", "-f", "yaml", "-s", "-"];
    let done = story.safe(&args, yaml).await.unwrap();
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    let names = pod.names().await.unwrap();
    assert_eq!(names, ["PASSWORD", "USERNAME", "db", "port", "secrets.json"]);
    for (name, text) in [
        ("PASSWORD", "*CasHC0w*"),
        ("USERNAME", "*root*"),
        ("port", "05432"),
        ("db", r#"{"hosts":["a","b"],"port":1.50}"#),
    ] {
        assert_eq!(pod.read_text(name).await.unwrap(), text, "{name}");
    }
    assert_eq!(pod.read("secrets.json").await.unwrap(), yaml);
    let spec = PodSpec::new("web-1").workload("web").attribute("items", "db.port=port");
    let picky = story.create_pod(spec).unwrap();
    picky.ready(SOON).await.unwrap();
    assert_eq!(picky.read_text("port").await.unwrap(), "1.50");
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mebibyte_of_any_bytes_and_a_thousand_keys_are_shown_to_the_last_byte() {
    let story = story::start().await.unwrap();
    let mut bytes = vec![0; 1024 * 1024];
    getrandom::fill(&mut bytes).unwrap();
    let args = ["-w", "blob", "-f", "raw", "-s", "-"];
    let done = story.safe(&args, &bytes).await.unwrap();
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let blob = story.create_pod(PodSpec::new("blob")).unwrap();
    blob.ready(SOON).await.unwrap();
    assert_eq!(blob.names().await.unwrap(), ["secrets.json"]);
    assert!(blob.read("secrets.json").await.unwrap() == bytes, "the bytes differ");

    let value = |number: usize| format!("{number:04}").repeat(200);
    let keys: BTreeMap<_, _> = (0..1000).map(|n| (format!("key-{n:03}"), value(n))).collect();
    let document = serde_json::to_vec(&keys).unwrap();
    story.register("keys", "default", &document).await.unwrap();
    let pod = story.create_pod(PodSpec::new("keys")).unwrap();
    pod.ready(SOON).await.unwrap();
    assert_eq!(pod.names().await.unwrap().len(), 1001);
    let root = pod.path().to_owned();
    let read = unhurried(move || {
        let read = keys.keys().map(|key| fs::read_to_string(root.join(key)));
        Ok((read.collect::<io::Result<Vec<_>>>()?, keys))
    });
    let (read, keys) = read.await.unwrap();
    assert!(read.iter().eq(keys.values()), "a value differs");
    assert!(pod.read("secrets.json").await.unwrap() == document, "the document differs");
    story.end().await.unwrap();
}

/// The time at which Safe says that the secret's present version was made, in seconds.
async fn made_at(story: &Playground, name: &str) -> i64 {
    let svid = workload::svid(story, name, "default");
    let state = workload::fetch(&mut workload::client(story, Some(&svid))).await.unwrap();
    let vsecm_safe_api::state::State::Present(present) = state else {
        unreachable!("the secret must be there");
    };
    present.updated.unix_timestamp()
}

#[tokio::test(flavor = "multi_thread")]
async fn times_are_the_versions_own_and_the_folder_names_its_revision() {
    let story = story::start().await.unwrap();
    let operator = Operator::of(&story);
    let mut revision = operator.put("web", "default", br#"{"a":"1"}"#).await.unwrap();
    let made = made_at(&story, "web").await;
    // the pod comes later than the version, by more than the clock's grain
    let later = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let is_later = || i64::try_from(later().as_secs()).unwrap() > made + 1;
    until("a later second", SOON, is_later).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    let mut rotations = Rotations::watch(pod.path()).unwrap();
    for round in 0..2 {
        if round == 1 {
            revision = operator.put("web", "default", br#"{"a":"2"}"#).await.unwrap();
            rotations.next(SOON).await.unwrap();
        }
        let made = made_at(&story, "web").await;
        let data = fs::read_link(pod.path().join("..data")).unwrap();
        assert_eq!(data, PathBuf::from(format!("..{revision}")));
        for name in ["a", "secrets.json", "..data/", "..data/a"] {
            let metadata = fs::metadata(pod.path().join(name)).unwrap();
            assert_eq!(metadata.mtime(), made, "{name} in round {round}");
        }
    }
    story.end().await.unwrap();
}

/// What `ls -la` tells of one name, without what differs from volume to volume.
fn line(root: &Path, path: &str) -> String {
    let at = root.join(path);
    let metadata = fs::symlink_metadata(&at).unwrap();
    let kind = metadata.file_type();
    let letter = match () {
        () if kind.is_dir() => 'd',
        () if kind.is_symlink() => 'l',
        () if kind.is_file() => '-',
        () => unreachable!("{path}: {kind:?}"),
    };
    let target = fs::read_link(&at).map(|target| format!(" -> {}", target.display()));
    format!("{letter}{:04o} {path}{}", metadata.mode() & 0o7777, target.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_layout_is_that_of_a_secret_volume() {
    let story = story::start().await.unwrap();
    let revision = Operator::of(&story).put("web", "default", NESTED).await.unwrap();
    let version = format!("..{revision}");
    let spec = PodSpec::new("web").attribute("items", "user=user,db.port=db/port");
    for (name, group) in [("web-0", None), ("web-1", Some(4711))] {
        let mut spec = PodSpec { name: name.to_owned(), ..spec.clone() };
        spec.fs_group = group;
        let pod = story.create_pod(spec).unwrap();
        pod.ready(SOON).await.unwrap();
        let (folder, file) = if group.is_some() { ("2755", "0440") } else { ("0755", "0444") };
        // what the kubelet's AtomicWriter makes of the same items, but for the name of the version
        // (there a time), and the root, which is writable there
        let expected = [
            format!("d{folder} "),
            format!("l0777 ..data -> {version}"),
            "l0777 user -> ..data/user".to_owned(),
            "l0777 db -> ..data/db".to_owned(),
            format!("d{folder} {version}"),
            format!("-{file} {version}/user"),
            format!("d{folder} {version}/db"),
            format!("-{file} {version}/db/port"),
        ];
        let root = pod.path();
        let inside: Vec<_> =
            ["user", "db", "db/port"].iter().map(|name| format!("{version}/{name}")).collect();
        let paths = ["", "..data", "user", "db", &version].into_iter();
        let lines: Vec<_> =
            paths.chain(inside.iter().map(String::as_str)).map(|path| line(root, path)).collect();
        assert_eq!(lines, expected);
        let mut names: Vec<_> =
            fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [version.as_str(), "..data", "db", "user"]);
        for path in ["", "..data", "user", &version, &inside[0], &inside[1]] {
            let metadata = fs::symlink_metadata(root.join(path)).unwrap();
            if story.users() == Users::Own {
                assert_eq!((metadata.uid(), metadata.gid()), (0, group.unwrap_or(0)), "{path}");
            }
        }
        let linked = |path: &str| fs::symlink_metadata(root.join(path)).unwrap().nlink();
        assert_eq!((linked(""), linked(&version), linked(&inside[1])), (3, 3, 2));
    }
    story.end().await.unwrap();
}

/// Reads a file in a folder as another user, who is in this group too. Only the kubelet's user
/// passes by the folders above, so it comes in by the folder's descriptor, as a container by its mount.
fn read_as(user: &str, group: &str, folder: fs::File, name: &str) -> io::Result<Output> {
    Command::new("setpriv")
        .args(["--reuid", user, "--regid", user, "--groups", group, "--", "cat"])
        .arg(format!("/proc/self/fd/0/{name}"))
        .stdin(folder)
        .output()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_group_its_members_read_and_nobody_else() {
    let story = story::start().await.unwrap();
    if story.users() != Users::Own {
        // a user namespace with one id has no other user
        return story.end().await.unwrap();
    }
    story.register("web", "default", NESTED).await.unwrap();
    let spec = PodSpec::new("web").attribute("items", "user=in/user").fs_group(4711);
    let pod = story.create_pod(spec).unwrap();
    pod.ready(SOON).await.unwrap();
    let file = pod.path().join("in/user");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o440);
    let as_member_of = |group: &'static str| {
        let root = pod.path().to_owned();
        unhurried(move || read_as("54321", group, fs::File::open(root)?, "in/user"))
    };
    let member = as_member_of("4711").await.unwrap();
    assert_eq!(member.stdout, b"admin", "{member:?}");
    let stranger = as_member_of("4712").await.unwrap();
    assert!(!stranger.status.success() && stranger.stdout.is_empty());
    let said = String::from_utf8_lossy(&stranger.stderr).into_owned();
    assert!(said.contains("Permission denied"), "{said}");
    story.end().await.unwrap();
}
