//! Which pod and container a process belongs to, from its `/proc/<pid>/cgroup`. Pure.
//!
//! | driver | path |
//! |---|---|
//! | cgroupfs | `/kubepods/besteffort/pod<uid>/<id>` |
//! | systemd, containerd | `/kubepods.slice/…/kubepods-besteffort-pod<uid>.slice/cri-containerd-<id>.scope` |
//! | systemd, CRI-O | the same with `crio-<id>.scope` |
//! | systemd, taken for cgroupfs | `/system.slice/…/kubepods-besteffort-pod<uid>.slice:cri-containerd:<id>` |
//!
//! Seen from a control group namespace of one's own the beginning is `/../..`, which changes
//! nothing here. The first pod in a path counts: what stands after it is the container's to choose.

/// A container id as runtimes make it has 64 characters.
const ID_LIMIT: usize = 128;

/// Where a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    /// The pod's uid.
    pub pod: String,
    /// The container's id; none for what runs beside the containers.
    pub container: Option<String>,
}

/// The pod and container in the text of `/proc/<pid>/cgroup`; `None` if it is in no pod.
pub fn inside(text: &str) -> Option<Inside> {
    // hierarchy:controllers:path; a path may have colons itself
    text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).find_map(of_path)
}

fn of_path(path: &str) -> Option<Inside> {
    let mut parts = path.split(['/', ':']);
    let pod = parts.find_map(pod_uid)?;
    let container = parts.find_map(|part| match part {
        // the runtime's name, where colons part them
        "" | "cri-containerd" | "crio" | "docker" => None,
        part => Some(container_id(part)),
    });
    Some(Inside { pod, container: container.flatten() })
}

fn pod_uid(part: &str) -> Option<String> {
    let part = part.strip_suffix(".slice").unwrap_or(part);
    let uid = match part.rsplit_once("-pod") {
        Some((_class, uid)) => uid,
        None => part.strip_prefix("pod")?,
    };
    // systemd's names have no dashes
    let uid = uid.replace('_', "-");
    let is_uid = matches!(uid.len(), 32 | 36)
        && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_uid.then_some(uid)
}

fn container_id(part: &str) -> Option<String> {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    let id = part.rsplit('-').next().unwrap_or(part);
    let is_plain = |id: &str| {
        (1..=ID_LIMIT).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    is_plain(id).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "5d7a2c1e-8f1b-4f0a-9a33-0c5d2b8e7f10";
    const ID: &str = "8c2f5be41d0e4b7ba0b7e7e1f9a3d6c58c2f5be41d0e4b7ba0b7e7e1f9a3d6c5";

    #[test]
    fn a_container_is_found_whatever_the_driver_and_the_runtime() {
        let slice = UID.replace('-', "_");
        for line in [
            format!("0::/kubepods/besteffort/pod{UID}/{ID}"),
            format!("0::/kubepods/pod{UID}/{ID}"),
            format!("11:memory:/kubepods/burstable/pod{UID}/{ID}\n10:cpu:/\n0::/"),
            format!("12:pids:/\n3:cpu,cpuacct:/kubepods/burstable/pod{UID}/{ID}/of-its-own"),
            format!(
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice/cri-containerd-{ID}.scope"
            ),
            format!("0::/kubepods.slice/kubepods-pod{slice}.slice/crio-{ID}.scope/container"),
            format!("0::/../../kubepods-besteffort-pod{slice}.slice/cri-containerd-{ID}.scope"),
            format!("0::/../../besteffort/pod{UID}/{ID}"),
            format!(
                "0::/system.slice/containerd.service/kubepods-besteffort-pod{slice}.slice:cri-containerd:{ID}"
            ),
            format!(
                "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{slice}.slice/cri-containerd-{ID}.scope"
            ),
        ] {
            let found = inside(&line);
            let wanted = Inside { pod: UID.to_owned(), container: Some(ID.to_owned()) };
            assert_eq!(found, Some(wanted), "{line}");
        }
    }

    #[test]
    fn a_static_pods_uid_has_no_dashes() {
        let uid = UID.replace('-', "");
        let found = inside(&format!("0::/kubepods/pod{uid}/{ID}")).unwrap();
        assert_eq!(found.pod, uid);
    }

    #[test]
    fn what_runs_beside_the_containers_of_a_pod_is_in_no_container() {
        let found = inside(&format!("0::/kubepods/besteffort/pod{UID}")).unwrap();
        assert_eq!(found, Inside { pod: UID.to_owned(), container: None });
    }

    #[test]
    fn a_container_that_makes_groups_of_its_own_stays_in_its_pod() {
        let other = "00000000-0000-4000-8000-000000000000";
        let found = inside(&format!("0::/kubepods/pod{UID}/{ID}/kubepods/pod{other}/{ID}"));
        assert_eq!(found.unwrap().pod, UID);
    }

    #[test]
    fn a_process_of_the_node_is_in_no_pod() {
        for line in [
            "",
            "0::/",
            "0::/system.slice/kubelet.service",
            "0::/machine.slice/libpod-8c2f5be41d0e4b7ba0b7e7e1f9a3d6c5.scope",
            "0::/user.slice/podman-user",
            "0::/podium/x",
            "garbage",
        ] {
            assert_eq!(inside(line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_found_is_plain(text in "(\\PC|[:/\n]|pod|-pod){0,200}") {
            if let Some(found) = inside(&text) {
                prop_assert!(found.pod.len() <= 36);
                prop_assert!(found.container.is_none_or(|id| id.len() <= ID_LIMIT));
            }
        }
    }
}
