//! `helm uninstall` refuses while pods have volumes; then it leaves nothing but what is stated.

use std::collections::BTreeSet;

use crate::support::{
    awaiting::{self, SOON},
    created::Created,
    helm::{self, SYSTEM},
    installation::{self, DRIVER},
    kubectl::Kubectl,
    node::{self, Node},
    part::nothing_is_left_of,
    pod::Pod,
    story::Story,
    volumes,
};

const STORY: &str = "s12_uninstall_leaves_nothing";

/// What an uninstall leaves in the cluster, as docs/install.md says: the secrets, sealed and their
/// key, SPIRE's authority and entries, the namespace, and the definitions of SPIRE's objects.
const KEPT: [&str; 4] = [
    "namespace/vsecm-system",
    "persistentvolumeclaim/data-spire-server-0",
    "persistentvolumeclaim/data-vsecm-safe-0",
    "secret/vsecm-root-key",
];

/// Names of all objects that are ours, by their label or by their name.
#[track_caller]
fn ours() -> BTreeSet<String> {
    let cluster = Kubectl::cluster();
    let kinds = cluster.run(["api-resources", "--verbs=list", "--output=name"]).ok();
    // an event tells of what was
    let kinds: Vec<_> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
    let kinds = kinds.join(",");
    let names = |selector: &str| {
        let args = ["get", &kinds, "--all-namespaces", "--output=name", "--selector", selector];
        cluster.run(args).ok()
    };
    let is_named = |name: &&str| name.contains("vsecm") || name.contains("spire");
    let labelled = names("app.kubernetes.io/part-of=vsecm");
    let all = names("");
    let all = labelled.lines().chain(all.lines().filter(is_named));
    // the story's own, and definitions: they go only by hand
    let is_it = |name: &&str| !name.contains("/e2e-") && !name.ends_with(".spire.spiffe.io");
    all.filter(is_it).map(str::to_owned).collect()
}

#[track_caller]
fn becomes(wanted: &[&str]) {
    let wanted: BTreeSet<_> = wanted.iter().map(|name| (*name).to_owned()).collect();
    let mut last = BTreeSet::new();
    awaiting::value("the end of what is ours in the cluster", SOON, || {
        last = ours();
        if last == wanted { Ok(()) } else { Err(format!("{last:?}, wanted {wanted:?}")) }
    });
}

#[track_caller]
fn nothing_is_left_on(node: &Node) {
    let name = node.name();
    let mounts = node.mountinfo();
    let is_ours = |line: &&String| {
        [" fuse.vsecm ", "/run/vsecm", "csi.vsecm.com"].iter().any(|part| line.contains(part))
    };
    let left: Vec<_> = mounts.iter().filter(is_ours).collect();
    assert!(left.is_empty(), "{name}: {left:#?}");
    let commands = node.exec(&["sh", "-c", "cat /proc/[0-9]*/comm 2>/dev/null"]).stdout;
    assert!(!commands.is_empty(), "{name} has processes");
    let is_ours = |command: &&str| command.contains("vsecm") || command.contains("spire");
    let left: Vec<_> = commands.lines().filter(is_ours).collect();
    assert!(left.is_empty(), "{name}: {left:?}");

    let kubelet = "/var/lib/kubelet";
    let sockets = node.folder(&format!("{kubelet}/plugins_registry")).expect("the folder");
    assert!(sockets.is_empty(), "{name}: {sockets:?}");
    // empty folders, and the file by which pods took turns
    let nothing = Some(Vec::new());
    assert_eq!(node.folder(&format!("{kubelet}/plugins/{DRIVER}")), nothing, "{name}");
    assert_eq!(node.folder("/run/vsecm/keeper"), nothing, "{name}");
    assert_eq!(node.folder("/run/vsecm/node"), Some(vec!["lock".to_owned()]), "{name}");
    assert_eq!(node.folder("/run/vsecm"), Some(vec!["keeper".into(), "node".into()]), "{name}");
    let cluster = Kubectl::cluster();
    let csinode = cluster.get("csinode", name).expect("the CSINode");
    assert!(!csinode["spec"]["drivers"].to_string().contains(DRIVER), "{csinode}");
}

#[test]
#[ignore = "make e2e-all"]
fn uninstall_is_refused_while_pods_have_volumes_and_leaves_nothing_afterwards() {
    let story = Story::begin(STORY);
    story.at_the_end(installation::ensure);
    let Some(nodes) = node::all(STORY) else { return };
    story.register("web", "value");
    let create = |node: &Node| {
        story.create(&Pod::of("web").named(&format!("web-{}", node.name())).on(node.name()))
    };
    let pods: Vec<_> = nodes.iter().map(create).collect();
    for pod in &pods {
        pod.ready(SOON);
    }

    helm::uninstall(&[]).refused();
    let said = Kubectl::namespace(SYSTEM).run(["logs", "job/vsecm-uninstall"]).ok();
    assert!(said.contains(&format!("still have volumes of {DRIVER}")), "{said}");
    for pod in &pods {
        let named = format!("{}/{}", pod.namespace(), pod.name());
        assert!(said.contains(&named), "{named} is not named: {said}");
        assert_eq!(pod.read("secrets.json"), "value", "after the refusal");
    }
    story.register("web", "changed");
    for pod in &pods {
        pod.comes_to_read("secrets.json", "changed", SOON);
    }

    pods.iter().for_each(Created::begin_delete);
    for pod in &pods {
        pod.delete(SOON);
    }
    nothing_is_left_of(&pods);
    helm::uninstall(&[]).ok();
    becomes(&KEPT);
    for node in &nodes {
        awaiting::until(
            &format!("the end of our folders' users on {}", node.name()),
            SOON,
            || node.folder("/var/lib/kubelet/plugins_registry") == Some(Vec::new()),
            || format!("{:?}", node.folder("/var/lib/kubelet/plugins_registry")),
        );
        nothing_is_left_on(node);
    }

    let last = nodes.clone();
    story.at_the_end(move || volumes::recycle(&last));
    helm::install(&[]).ok();
    helm::upgrade(&["purge=true"]).ok();
    helm::uninstall(&[]).ok();
    becomes(&["namespace/vsecm-system"]);
}
