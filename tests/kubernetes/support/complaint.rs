//! What a component says when something is wrong: a sentence in its log, which the documentation
//! explains, while its pod is not Ready.

use std::{fs, path::Path};

use super::{
    awaiting::{self, PATIENTLY},
    created::{Created, condition},
    helm::SYSTEM,
    installation,
    kubectl::text,
    part::Part,
};

/// Asserts that docs/troubleshooting.md has a sentence's fixed part, as it stands in logs.
#[track_caller]
pub(crate) fn is_documented(part: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/troubleshooting.md");
    let text = fs::read_to_string(file).expect("docs/troubleshooting.md");
    assert!(text.contains(part), "docs/troubleshooting.md does not explain {part:?}");
}

/// The pod of a part that was made last: in a rollout there are two.
#[track_caller]
pub(crate) fn newest(part: Part, node: Option<&str>) -> Option<Created> {
    let mut pods = installation::pods(part.workload, node);
    pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let last = pods.iter().max_by_key(|pod| text(&pod["metadata"]["creationTimestamp"]))?;
    Created::look(SYSTEM, &text(&last["metadata"]["name"]))
}

/// Waits until the newest pod of a part is not Ready and its log has all these words, of which the
/// documentation has the first.
#[track_caller]
pub(crate) fn comes(part: Part, node: Option<&str>, words: &[&str]) {
    is_documented(words[0]);
    let what = format!("{} that is not Ready and says {words:?}", part.workload);
    awaiting::value(&what, PATIENTLY, || {
        let pod = newest(part, node).ok_or("no pod")?;
        let object = pod.object().ok_or("no pod")?;
        if condition(&object, "Ready") != "False" {
            return Err(format!("{} is ready, or was not asked yet", pod.name()));
        }
        let log = pod.try_log(part.container);
        let is_it = |line: &&str| words.iter().all(|word| line.contains(word));
        match log.lines().rfind(is_it) {
            Some(_line) => Ok(()),
            None => Err(log.lines().last().unwrap_or_default().to_owned()),
        }
    });
}
