//! The pods of the nodes: vsecm-node and vsecm-keeper.

use serde_json::json;

use crate::support::{container, containers, env, has_env, list, mount, named, render, text};

#[test]
fn the_new_pod_comes_before_the_old_one_goes() {
    let rendered = render(&[]);
    let strategy = &rendered.get("DaemonSet", "vsecm-node")["spec"]["updateStrategy"];
    assert_eq!(strategy["rollingUpdate"], json!({"maxSurge": 1, "maxUnavailable": 0}));
    let pod = rendered.pod("DaemonSet", "vsecm-node");
    for name in ["csi", "node-agent"] {
        let one = container(pod, name);
        assert_eq!(env(one, "VSECM_NODE_LOCK"), "/run/vsecm/node/lock");
        let uid = &named(&one["env"], "VSECM_POD_UID")["valueFrom"]["fieldRef"]["fieldPath"];
        assert_eq!(uid, "metadata.uid");
        // a port of the node would keep the two pods apart
        assert!(list(&one["ports"]).iter().all(|port| port["hostPort"].is_null()));
    }
    assert!(pod["hostNetwork"].is_null());
}

#[test]
fn only_csi_sees_the_kubelets_folders() {
    let rendered = render(&["kubeletDir=/var/snap/kubelet"]);
    let pod = rendered.pod("DaemonSet", "vsecm-node");
    let csi = container(pod, "csi");
    let pods = mount(csi, "pods").unwrap();
    assert_eq!(pods["mountPropagation"], "Bidirectional");
    assert_eq!(pods["mountPath"], "/var/snap/kubelet/pods");
    assert_eq!(env(csi, "VSECM_KUBELET_DIR"), "/var/snap/kubelet");
    let socket = "unix:///var/snap/kubelet/plugins/csi.vsecm.com/csi.sock";
    assert_eq!(env(csi, "CSI_ENDPOINT"), socket);
    let registration = "/var/snap/kubelet/plugins_registry/node@csi.vsecm.com-reg.sock";
    assert_eq!(env(csi, "VSECM_CSI_REGISTRATION_SOCKET"), registration);
    let others = containers(pod).filter(|c| c["name"] != "csi");
    for one in others {
        for volume in ["pods", "plugin", "registry"] {
            assert!(mount(one, volume).is_none(), "{} has {volume}", one["name"]);
        }
    }
}

#[test]
fn only_the_node_agent_sees_spire() {
    let rendered = render(&[]);
    let pod = rendered.pod("DaemonSet", "vsecm-node");
    for one in containers(pod) {
        let is_agent = one["name"] == "node-agent";
        for volume in ["spire-agent-socket", "spire-admin-socket"] {
            let mounted = mount(one, volume);
            assert_eq!(mounted.is_some(), is_agent, "{} and {volume}", one["name"]);
            assert!(mounted.is_none_or(|mounted| mounted["readOnly"] == true));
        }
    }
    let agent = container(pod, "node-agent");
    assert_eq!(env(agent, "SPIRE_ADMIN_ENDPOINT_SOCKET"), "unix:///spire-admin-socket/admin.sock");
}

#[test]
fn how_long_a_secret_outlives_its_pods_is_a_value_of_which_0_is_one() {
    for (set, seconds) in [
        (&[][..], "3600"),
        (&["node.maxStaleSeconds=0"][..], "0"),
        (&["node.maxStaleSeconds=31536000"][..], "31536000"),
    ] {
        let rendered = render(set);
        let agent = container(rendered.pod("DaemonSet", "vsecm-node"), "node-agent");
        assert_eq!(env(agent, "VSECM_MAX_STALE"), seconds);
    }
}

#[test]
fn each_end_of_a_socket_knows_the_user_at_the_other() {
    let rendered = render(&[]);
    let node = rendered.pod("DaemonSet", "vsecm-node");
    let keeper = container(rendered.pod("DaemonSet", "vsecm-keeper"), "keeper");
    let (csi, agent) = (container(node, "csi"), container(node, "node-agent"));
    for (one, name, peer) in [
        (csi, "VSECM_NODE_AGENT_PEER", "uid:61003"),
        (csi, "VSECM_KEEPER_PEER", "uid:61004"),
        (agent, "VSECM_CSI_PEER", "uid:0"),
        (agent, "VSECM_KEEPER_PEER", "uid:61004"),
        (keeper, "VSECM_CSI_PEER", "uid:0"),
        (keeper, "VSECM_NODE_AGENT_PEER", "uid:61003"),
    ] {
        assert_eq!(env(one, name), peer, "{}", one["name"]);
    }
    for one in [csi, agent, keeper] {
        assert_eq!(env(one, "VSECM_KEEPER_SOCKET"), "/run/vsecm/keeper/keeper.sock");
    }
    assert_eq!(mount(csi, "keeper").unwrap()["readOnly"], true);
    assert_eq!(mount(agent, "keeper").unwrap()["readOnly"], true);
    assert_eq!(mount(csi, "agent").unwrap()["readOnly"], true);
}

#[test]
fn socket_folders_are_made_by_their_owners() {
    let rendered = render(&[]);
    let node = rendered.pod("DaemonSet", "vsecm-node");
    let folder = container(node, "agent-folder");
    assert_eq!(folder["args"], json!(["prepare", "/run/vsecm/agent/socket"]));
    assert_eq!(folder["securityContext"]["runAsUser"], 61003);
    let keeper = container(rendered.pod("DaemonSet", "vsecm-keeper"), "folder");
    let args = json!(["prepare", "/run/vsecm/keeper", "--owner", "61004:61004"]);
    assert_eq!(keeper["args"], args);
}

#[test]
fn csi_leaves_the_network() {
    let rendered = render(&[]);
    let pod = rendered.pod("DaemonSet", "vsecm-node");
    assert_eq!(env(container(pod, "csi"), "VSECM_CSI_LEAVE_NETWORK"), "true");
    assert_eq!(pod["hostPID"], true);
}

#[test]
fn each_binary_asks_itself_how_it_is() {
    let rendered = render(&[]);
    let pod = rendered.pod("DaemonSet", "vsecm-node");
    for name in ["csi", "node-agent"] {
        let one = container(pod, name);
        for (probe, word) in [("livenessProbe", "live"), ("readinessProbe", "ready")] {
            let command = json!([format!("/vsecm-{name}"), "probe", word]);
            assert_eq!(one[probe]["exec"]["command"], command);
        }
    }
}

#[test]
fn the_keeper_is_touched_by_no_upgrade_and_has_nothing() {
    let rendered = render(&[]);
    let set = rendered.get("DaemonSet", "vsecm-keeper");
    assert_eq!(set["spec"]["updateStrategy"], json!({"type": "OnDelete"}));
    let pod = rendered.pod("DaemonSet", "vsecm-keeper");
    for key in ["hostPID", "hostNetwork", "hostIPC"] {
        assert!(pod[key].is_null(), "{key}");
    }
    let volumes: Vec<_> = list(&pod["volumes"]).iter().map(|v| text(&v["name"])).collect();
    assert_eq!(volumes, ["keeper"]);
}

#[test]
fn both_tolerate_all_taints() {
    let rendered = render(&[]);
    for name in ["vsecm-node", "vsecm-keeper", "spire-agent"] {
        let tolerations = &rendered.pod("DaemonSet", name)["tolerations"];
        assert_eq!(tolerations, &json!([{"operator": "Exists"}]), "{name}");
    }
}

#[test]
fn the_startup_taint_is_a_toggle_with_its_own_role() {
    let agent = |sets: &[&str]| {
        let rendered = render(sets);
        let role = rendered.find("ClusterRole", "vsecm-node-startup-taint").is_some();
        let pod = rendered.pod("DaemonSet", "vsecm-node");
        (has_env(container(pod, "node-agent"), "VSECM_STARTUP_TAINT"), role)
    };
    assert_eq!(agent(&[]), (false, false));
    assert_eq!(agent(&["node.startupTaint=true"]), (true, true));
}

#[test]
fn the_operators_attributes_reach_csi_as_lines() {
    let plain = render(&[]);
    let csi = container(plain.pod("DaemonSet", "vsecm-node"), "csi");
    assert!(!has_env(csi, "VSECM_VOLUME_DEFAULTS") && !has_env(csi, "VSECM_VOLUME_ENFORCED"));
    let rendered = render(&[
        "volumeDefaults.layout=document",
        "volumeDefaults.mode=0440",
        "volumeEnforced.optional=false",
    ]);
    let csi = container(rendered.pod("DaemonSet", "vsecm-node"), "csi");
    assert_eq!(env(csi, "VSECM_VOLUME_DEFAULTS"), "layout=document\nmode=0440\n");
    assert_eq!(env(csi, "VSECM_VOLUME_ENFORCED"), "optional=false\n");
}

#[test]
fn what_is_privileged_can_live_in_a_namespace_of_its_own() {
    let rendered = render(&["node.namespace=vsecm-nodes"]);
    for name in ["vsecm-node", "vsecm-keeper", "spire-agent"] {
        let set = rendered.get("DaemonSet", name);
        assert_eq!(set["metadata"]["namespace"], "vsecm-nodes", "{name}");
        let account = rendered.get("ServiceAccount", name);
        assert_eq!(account["metadata"]["namespace"], "vsecm-nodes", "{name}");
    }
    let binding = rendered.get("ClusterRoleBinding", "vsecm-node");
    assert_eq!(binding["subjects"][0]["namespace"], "vsecm-nodes");
    let identity = rendered.get("ClusterSPIFFEID", "vsecm-node");
    let selector = &identity["spec"]["namespaceSelector"]["matchLabels"];
    assert_eq!(selector["kubernetes.io/metadata.name"], "vsecm-nodes");
    let policy = rendered.get("NetworkPolicy", "vsecm-safe");
    let peer = &policy["spec"]["ingress"][0]["from"][1]["namespaceSelector"]["matchLabels"];
    assert_eq!(peer["kubernetes.io/metadata.name"], "vsecm-nodes");
}

#[test]
fn csi_is_told_how_long_to_hold_a_publish_and_how_to_label_files() {
    let rendered = render(&["node.firstHoldSeconds=3", "selinux.context="]);
    let csi = container(rendered.pod("DaemonSet", "vsecm-node"), "csi");
    assert_eq!(env(csi, "VSECM_CSI_FIRST_HOLD_SECONDS"), "3");
    assert_eq!(env(csi, "VSECM_CSI_HOLD_SECONDS"), "110");
    assert_eq!(env(csi, "VSECM_CSI_SELINUX_CONTEXT"), "");
    let rendered = render(&[]);
    let csi = container(rendered.pod("DaemonSet", "vsecm-node"), "csi");
    let container_files = "system_u:object_r:container_file_t:s0";
    assert_eq!(env(csi, "VSECM_CSI_SELINUX_CONTEXT"), container_files);
    assert_eq!(rendered.get("CSIDriver", "csi.vsecm.com")["spec"]["seLinuxMount"], false);
}
