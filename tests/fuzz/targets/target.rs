//! The kubelet's folder and, after a newline, a target path: an accepted path is the one that the
//! kubelet gave and leads nowhere else.

#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use vsecm_node_agent_api::target::Target;

fuzz_target!(|data: &str| {
    let (kubelet, path) = data.split_once('\n').unwrap_or(("/k", data));
    check(kubelet, path);
    // a mutation seldom hits the whole shape
    let (uid, name) = path.split_once('\n').unwrap_or((path, "v"));
    let path = format!("/k/pods/{uid}/volumes/kubernetes.io~csi/{name}/mount");
    check("/k", &path);
});

fn check(kubelet: &str, path: &str) {
    let Ok(target) = Target::below(kubelet, path) else {
        return;
    };
    let inside = target.to_string();
    assert_eq!(format!("{}/{inside}", kubelet.trim_end_matches('/')), path);
    assert_eq!(inside.parse(), Ok(target.clone()));
    let parts: Vec<_> = Path::new(&inside).components().collect();
    assert_eq!(parts.len(), 6);
    assert!(parts.iter().all(|part| matches!(part, Component::Normal(_))));
    assert!(!inside.contains('\0') && inside.split('/').all(|part| part.len() <= 255));
    assert_eq!(inside.split('/').nth(1), Some(target.pod.as_str()));
}
