//! The README's commands for one's own cluster, run as they stand there, on a cluster that has
//! nothing of ours. Only the registry is spared: what it would hold is on the nodes already.

use std::{collections::BTreeSet, env, fs, path::Path, time::Duration};

use serde_json::Value;

use crate::support::{
    awaiting::PATIENTLY,
    helm::{self, SYSTEM},
    installation,
    kubectl::Kubectl,
    node::{self, Node},
    program::Program,
    story::Story,
    volumes,
};

const STORY: &str = "s28_the_readme_word_for_word";

const HEADING: &str = "Install it on your cluster";

fn root() -> String {
    format!("{}/..", env!("CARGO_MANIFEST_DIR"))
}

/// The first fenced block of the README's section.
fn block() -> String {
    let file = Path::new(&root()).join("README.md");
    let text = fs::read_to_string(file).expect("README.md");
    let is_heading =
        |line: &&str| line.starts_with('#') && line.trim_matches(['#', ' ']) == HEADING;
    let after = text.lines().skip_while(|line| !is_heading(line)).skip(1);
    let section = after.take_while(|line| !line.starts_with("## "));
    let fenced = section.skip_while(|line| !line.starts_with("```")).skip(1);
    let block: Vec<_> = fenced.take_while(|line| !line.starts_with("```")).collect();
    assert!(!block.is_empty(), "README.md has no commands in the section {HEADING:?}");
    assert!(block.len() <= 10, "more than ten lines: {block:#?}");
    block.join("\n")
}

/// What follows `mark` up to the next blank or quote.
fn word_after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(mark)?;
    rest.split([' ', '\n', '"', '\'', ',', '}']).find(|word| !word.is_empty())
}

/// Images that the chart asks for with this registry and no other value.
#[track_caller]
fn images(registry: &str) -> BTreeSet<String> {
    let (chart, registry) =
        (format!("{}/charts/vsecm", root()), format!("image.registry={registry}"));
    let args = ["template", "vsecm", &chart, "--kube-version", "1.34.0", "--set", &registry];
    let yaml = Program::new("helm").args(args).run().ok();
    let named = yaml.lines().filter_map(|line| line.trim_start().strip_prefix("image: "));
    named.map(|name| name.trim_matches('"').to_owned()).collect()
}

/// An image's whole name: containerd takes no other.
fn whole(image: &str) -> String {
    match image.split_once('/') {
        None => format!("docker.io/library/{image}"),
        Some((host, _)) if host.contains(['.', ':']) => image.to_owned(),
        Some(_) => format!("docker.io/{image}"),
    }
}

/// The image of that name, as the suite's cluster has it.
fn loaded_as(image: &str) -> String {
    let (path, tag) = image.rsplit_once(':').expect("a tag, or it would be pulled always");
    let name = path.rsplit('/').next().unwrap_or(path);
    if name.starts_with("vsecm-") {
        let tag = env::var("VSECM_E2E_TAG").unwrap_or_else(|_unset| "e2e".to_owned());
        format!("registry.local/{name}:{tag}")
    } else if name.starts_with("spire-") {
        format!("registry.local/{name}:{tag}")
    } else {
        "registry.local/busybox:1.35".to_owned()
    }
}

/// Nothing of ours, not even what an uninstall keeps.
#[track_caller]
fn clear(nodes: &[Node]) {
    if helm::status().is_some() {
        helm::uninstall(&["--no-hooks"]).ok();
    }
    Kubectl::cluster().delete("namespace", SYSTEM, PATIENTLY);
    volumes::recycle(nodes);
}

/// What the last command prints, by the value in the command that registers it.
fn delivered(block: &str) -> String {
    let value = block.split('\'').find(|word| word.starts_with('{') && word.contains("\":"));
    let value = value.expect("a value in single quotes");
    let file = word_after(block, "cat /vsecm/").expect("the pod's file is shown");
    let json: Value = serde_json::from_str(value).expect("a JSON value");
    json[file].as_str().map_or_else(|| value.to_owned(), str::to_owned)
}

#[test]
#[ignore = "make e2e-all"]
fn the_readmes_commands_install_and_deliver_as_they_stand() {
    let block = block();
    let story = Story::begin_bare(STORY);
    let Some(nodes) = node::all(STORY) else { return };
    clear(&nodes);
    let last = nodes.clone();
    let example = word_after(&block, "kubectl apply -f ").expect("an example").to_owned();
    let manifest = Path::new(&root()).join(&example);
    let applied = manifest.display().to_string();
    story.at_the_end(move || {
        let gone = ["delete", "--ignore-not-found", "--wait", "-f", &applied];
        Kubectl::cluster().run(gone).ok();
        clear(&last);
        installation::ensure();
    });

    let registry = word_after(&block, "REGISTRY=").expect("the registry").to_owned();
    let mut wanted = images(&registry);
    let manifest = fs::read_to_string(manifest).expect("the example");
    wanted.insert(word_after(&manifest, "image: ").expect("its image").to_owned());
    for node in &nodes {
        for image in &wanted {
            let (have, whole) = (loaded_as(image), whole(image));
            node.exec(&["ctr", "-n", "k8s.io", "images", "tag", "--force", &have, &whole]).ok();
        }
    }
    let is_push = |line: &&str| line.starts_with("make ") && line.contains(" push");
    let pushes = block.lines().filter(is_push).count();
    assert_eq!(pushes, 1, "one line pushes: {block}");
    let lines: Vec<_> = block.lines().filter(|line| !is_push(line)).collect();
    let wanted = delivered(&block);

    let script = format!("set -euo pipefail\ncd {}\n{}", root(), lines.join("\n"));
    let run = Program::new("bash").args(["-c", &script]).within(Duration::from_mins(6)).run();
    let told = run.tell();
    println!("{told}");
    let said = run.ok();
    assert!(said.trim_end().ends_with(&wanted), "the pod does not have {wanted:?}: {told}");
}
