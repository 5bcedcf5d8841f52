//! `OpenShift`: what could not be tried here is held word for word.

use crate::support::{container, render, text};

const LABEL: &str = "security.openshift.io/csi-ephemeral-volume-profile";
const CONSTRAINTS: &str = "SecurityContextConstraints";

#[test]
fn nothing_of_it_is_rendered_elsewhere() {
    let rendered = render(&[]);
    assert_eq!(rendered.of(CONSTRAINTS).count(), 0);
    assert!(rendered.get("CSIDriver", "csi.vsecm.com")["metadata"]["labels"][LABEL].is_null());
    let all = rendered.all().map(ToString::to_string).collect::<String>();
    assert!(!all.contains("spc_t"));
}

#[test]
fn pods_may_use_the_driver_under_the_restricted_profile() {
    let rendered = render(&["openshift.enabled=true"]);
    let labels = &rendered.get("CSIDriver", "csi.vsecm.com")["metadata"]["labels"];
    assert_eq!(labels[LABEL], "restricted");
}

#[test]
fn sockets_of_the_node_are_reached_under_selinux() {
    let rendered = render(&["openshift.enabled=true"]);
    for (set, one) in [
        ("vsecm-node", "node-agent"),
        ("vsecm-node", "agent-folder"),
        ("vsecm-keeper", "keeper"),
        ("vsecm-keeper", "folder"),
        ("spire-agent", "spire-agent"),
    ] {
        let one = container(rendered.pod("DaemonSet", set), one);
        let options = &one["securityContext"]["seLinuxOptions"];
        assert_eq!(options["type"], "spc_t", "{}", one["name"]);
    }
}

#[test]
fn each_account_has_the_constraints_that_its_pod_needs() {
    let rendered = render(&["openshift.enabled=true", "spire.workloadSocket=csi"]);
    for (name, user, privileged, host_path, host_pid) in [
        ("vsecm-node", "vsecm-node", true, true, true),
        ("vsecm-keeper", "vsecm-keeper", false, true, false),
        ("vsecm-safe", "vsecm-safe", false, false, false),
        ("vsecm-sentinel", "vsecm-sentinel", false, false, false),
        ("vsecm-uninstall", "vsecm-uninstall", false, false, false),
        ("vsecm-spire-server", "spire-server", false, false, false),
        ("vsecm-spire-agent", "spire-agent", false, true, true),
    ] {
        let scc = rendered.get(CONSTRAINTS, name);
        let user = format!("system:serviceaccount:vsecm-system:{user}");
        assert_eq!(text(&scc["users"][0]), user);
        assert_eq!(scc["allowPrivilegedContainer"], privileged, "{name}");
        assert_eq!(scc["allowHostDirVolumePlugin"], host_path, "{name}");
        assert_eq!(scc["allowHostPID"], host_pid, "{name}");
    }
    assert_eq!(rendered.of(CONSTRAINTS).count(), 7);
}
