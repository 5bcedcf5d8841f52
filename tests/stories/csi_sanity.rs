//! The suite that Kubernetes has for CSI drivers, against the real processes.

use std::{env, fs, os::unix::fs::PermissionsExt, path::PathBuf};

use tokio::process::Command;
use vsecm_tests::{PodSpec, dial, kubelet::request, story, story::SOON};

use crate::support::sanity;

/// The specs of the two services that a driver of inline volumes has.
const SPECS: &str = "Ran 15 of ";

/// csi-sanity asks for `target` where the kubelet says `mount`.
const CHECK: &str = r#"#!/bin/sh
path=${1%/target}/mount
if [ -d "$path" ]; then echo directory; elif [ -e "$path" ]; then echo other; else echo not_found; fi
"#;

fn csi_sanity() -> PathBuf {
    let cache = || PathBuf::from(env::var_os("HOME").unwrap()).join(".cache");
    let bin = env::var_os("CLUSTER_BIN").map_or_else(
        || {
            env::var_os("XDG_CACHE_HOME")
                .map_or_else(cache, PathBuf::from)
                .join("vsecm-cluster/bin")
        },
        PathBuf::from,
    );
    bin.join("csi-sanity")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs csi-sanity, which `tests/cluster/build csi-sanity` builds; make e2e runs it"]
async fn all_specs_of_csi_sanity_pass() {
    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    // its identity is what the volumes of the suite have too
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    pod.ready(SOON).await.unwrap();

    let at = |name: &str| story.folder().join(name);
    let publish = request::publish(pod.spec(), pod.uid(), pod.path());
    let controller = sanity::controller(&at("controller.sock"), publish.volume_context);
    let driver = dial::unix(story.layout().csi_socket()).await.unwrap();
    let relay = sanity::relay(&at("relay.sock"), driver);
    fs::write(at("check"), CHECK).unwrap();
    fs::set_permissions(at("check"), fs::Permissions::from_mode(0o755)).unwrap();

    let mut suite = Command::new(csi_sanity());
    let folder = pod.path().parent().unwrap().with_file_name("sanity");
    suite
        .arg(format!("--csi.endpoint=unix://{}", at("relay.sock").display()))
        .arg(format!("--csi.controllerendpoint=unix://{}", at("controller.sock").display()))
        .arg(format!("--csi.mountdir={}", folder.display()))
        .arg(format!("--csi.stagingdir={}", at("staging").display()))
        .arg(format!("--csi.checkpathcmd={}", at("check").display()))
        .arg("--ginkgo.focus=Identity Service|Node Service")
        .arg("--ginkgo.no-color");
    let ended = suite.output().await.expect("tests/cluster/build csi-sanity");
    let said = String::from_utf8_lossy(&ended.stdout);
    eprintln!("{said}");
    assert!(ended.status.success() && said.contains(SPECS), "{said}");
    assert!(said.contains("15 Passed | 0 Failed"), "{said}");

    relay.abort();
    controller.abort();
    assert!(!folder.exists(), "no volume of the suite is left");
    story.end().await.unwrap();
}
