//! Users, privileges, tokens and memory of the containers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::{WORKLOADS, container, containers, has_env, list, mount, named, render, text};

/// Containers that are root, and why they may be.
const ROOT: [(&str, &str); 3] =
    [("vsecm-node", "csi"), ("vsecm-keeper", "folder"), ("spire-agent", "spire-agent")];

#[test]
fn one_container_is_privileged() {
    let rendered = render(&[]);
    let privileged: Vec<_> = rendered
        .pods()
        .flat_map(|(name, pod)| containers(pod).map(move |c| (name, c)))
        .filter(|(_, c)| c["securityContext"]["privileged"] == true)
        .map(|(name, c)| (name, text(&c["name"])))
        .collect();
    assert_eq!(privileged, [("vsecm-node", "csi")]);
}

#[test]
fn all_others_pass_what_restricted_asks_of_a_container() {
    for (name, pod) in render(&["safe.data.hostPath="]).pods() {
        for one in containers(pod).filter(|c| !ROOT.contains(&(name, text(&c["name"])))) {
            let context = &one["securityContext"];
            let which = format!("{name}/{}", one["name"]);
            assert_eq!(context["runAsNonRoot"], true, "{which}");
            assert_eq!(context["allowPrivilegeEscalation"], false, "{which}");
            assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}), "{which}");
            assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault", "{which}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{which}");
        }
    }
}

#[test]
fn roots_that_are_not_privileged_keep_what_they_need_and_no_more() {
    let rendered = render(&[]);
    let agent = container(rendered.pod("DaemonSet", "spire-agent"), "spire-agent");
    assert_eq!(agent["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
    let folder = container(rendered.pod("DaemonSet", "vsecm-keeper"), "folder");
    let capabilities = json!({"drop": ["ALL"], "add": ["CHOWN", "FOWNER", "DAC_OVERRIDE"]});
    assert_eq!(folder["securityContext"]["capabilities"], capabilities);
}

/// The uid of each main container.
fn uids(rendered: &crate::support::Rendered) -> BTreeMap<String, u64> {
    let mains = WORKLOADS.iter().flat_map(|(kind, name)| {
        list(&rendered.pod(kind, name)["containers"]).iter().map(move |c| (name, c))
    });
    mains
        .map(|(name, c)| {
            (
                format!("{name}/{}", text(&c["name"])),
                c["securityContext"]["runAsUser"].as_u64().unwrap(),
            )
        })
        .collect()
}

#[test]
fn no_two_components_share_a_user_and_none_has_the_one_that_many_images_have() {
    let uids = uids(&render(&[]));
    assert_eq!(uids["vsecm-safe/safe"], 61001);
    assert_eq!(uids["vsecm-sentinel/sentinel"], 61002);
    assert_eq!(uids["vsecm-node/node-agent"], 61003);
    assert_eq!(uids["vsecm-keeper/keeper"], 61004);
    // root twice: csi, and SPIRE's agent, which are processes of the node anyway
    let others: Vec<_> = uids.values().filter(|uid| **uid != 0).collect();
    assert_eq!(others.iter().collect::<BTreeSet<_>>().len(), others.len(), "{uids:?}");
    assert!(!uids.values().any(|uid| *uid == 65532), "{uids:?}");
}

#[test]
fn the_node_agent_reaches_spires_admin_socket_and_the_keepers_folder_by_its_groups() {
    let rendered = render(&[]);
    let pod = rendered.pod("DaemonSet", "vsecm-node");
    assert_eq!(container(pod, "node-agent")["securityContext"]["runAsGroup"], 0);
    assert_eq!(pod["securityContext"]["supplementalGroups"], json!([61004]));
}

/// Containers of our own that have a token for the API server.
fn with_api_token(rendered: &crate::support::Rendered) -> Vec<(String, String)> {
    let ours = rendered.pods().filter(|(name, _)| name.starts_with("vsecm-"));
    ours.flat_map(|(name, pod)| containers(pod).map(move |c| (name, c)))
        .filter(|(_, c)| mount(c, "api-token").is_some())
        .map(|(name, c)| (name.to_owned(), text(&c["name"]).to_owned()))
        .collect()
}

#[test]
fn only_who_asks_the_api_server_has_a_token_for_it() {
    let rendered = render(&[]);
    for (name, pod) in rendered.pods().filter(|(name, _)| name.starts_with("vsecm-")) {
        assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
    }
    let mut holders = with_api_token(&rendered);
    holders.sort();
    let expected = [
        ("vsecm-node", "node-agent"),
        ("vsecm-safe", "safe"),
        ("vsecm-uninstall", "volumes-in-use"),
    ];
    assert_eq!(holders, expected.map(|(pod, c)| (pod.to_owned(), c.to_owned())));
}

#[test]
fn sentinels_token_is_for_safe_alone_and_short_lived() {
    let rendered = render(&[]);
    let pod = rendered.pod("Deployment", "vsecm-sentinel");
    let sources = &named(&pod["volumes"], "token")["projected"]["sources"];
    let token = json!({"path": "token", "audience": "vsecm-safe", "expirationSeconds": 600});
    assert_eq!(sources, &json!([{"serviceAccountToken": token}]));
    let mounted = mount(container(pod, "sentinel"), "token").unwrap();
    assert_eq!(mounted["mountPath"], "/var/run/secrets/vsecm");
}

#[test]
fn what_must_not_be_evicted_reserves_its_memory_and_is_critical() {
    let rendered = render(&[]);
    let same =
        |c: &Value| c["resources"]["requests"]["memory"] == c["resources"]["limits"]["memory"];
    for (kind, name, one, class) in [
        ("StatefulSet", "vsecm-safe", "safe", "system-cluster-critical"),
        ("DaemonSet", "vsecm-node", "node-agent", "system-node-critical"),
        ("DaemonSet", "vsecm-node", "csi", "system-node-critical"),
        ("DaemonSet", "vsecm-keeper", "keeper", "system-node-critical"),
    ] {
        let pod = rendered.pod(kind, name);
        assert!(same(container(pod, one)), "{one}");
        assert_eq!(pod["priorityClassName"], class, "{name}");
    }
}

#[test]
fn a_workload_takes_its_own_values() {
    for (name, prefix) in [
        ("vsecm-safe", "safe"),
        ("vsecm-sentinel", "sentinel"),
        ("vsecm-node", "node"),
        ("vsecm-keeper", "keeper"),
        ("spire-server", "spire.server"),
        ("spire-agent", "spire.agent"),
    ] {
        let rendered = render(&[
            &format!("{prefix}.nodeSelector.disk=fast"),
            &format!("{prefix}.tolerations[0].key=only"),
            &format!("{prefix}.imagePullSecrets={{mine}}"),
            &format!("{prefix}.podAnnotations.note=hello"),
        ]);
        let (kind, _) = WORKLOADS.iter().find(|(_, n)| *n == name).unwrap();
        let pod = rendered.pod(kind, name);
        assert_eq!(pod["nodeSelector"]["disk"], "fast", "{name}");
        assert_eq!(pod["tolerations"][0]["key"], "only", "{name}");
        assert_eq!(pod["imagePullSecrets"], json!([{"name": "mine"}]), "{name}");
        let template = &rendered.get(kind, name)["spec"]["template"];
        assert_eq!(template["metadata"]["annotations"]["note"], "hello", "{name}");
    }
}

#[test]
fn pull_secrets_and_variables_can_be_given() {
    let rendered = render(&[
        "image.pullSecrets={all}",
        "safe.env.A=1",
        "sentinel.env.A=1",
        "node.csi.env.A=1",
        "node.agent.env.A=1",
        "keeper.env.A=1",
    ]);
    for (kind, name) in WORKLOADS {
        let pod = rendered.pod(kind, name);
        assert_eq!(pod["imagePullSecrets"], json!([{"name": "all"}]), "{name}");
        for one in list(&pod["containers"]).iter().filter(|_| name.starts_with("vsecm")) {
            assert!(has_env(one, "A"), "{name}/{}", one["name"]);
        }
    }
}
