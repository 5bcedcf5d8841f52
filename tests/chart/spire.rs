//! The SPIRE that comes along, and the one that is there.

use serde_json::json;

use crate::support::{container, env, mount, named, render, text};

fn config<'a>(rendered: &'a crate::support::Rendered, map: &str, file: &str) -> &'a str {
    text(&rendered.get("ConfigMap", map)["data"][file])
}

#[test]
fn spire_comes_along_or_not_at_all() {
    let rendered = render(&["spire.enabled=false"]);
    let is_spires =
        |object: &&serde_json::Value| text(&object["metadata"]["name"]).contains("spire");
    assert_eq!(rendered.all().filter(is_spires).count(), 0);
    assert_eq!(rendered.of("ClusterSPIFFEID").count(), 4);
}

#[test]
fn its_agents_know_the_one_delegate_and_open_an_admin_socket_elsewhere() {
    let rendered = render(&["trustDomain=example.org"]);
    let agent = config(&rendered, "spire-agent", "agent.conf");
    for line in [
        r#"authorized_delegates = ["spiffe://example.org/vsecm-node-agent"]"#,
        r#"trust_domain = "example.org""#,
        r#"socket_path = "/run/spire/agent-sockets/spire-agent.sock""#,
        r#"admin_socket_path = "/run/spire/admin-sockets/admin.sock""#,
    ] {
        assert!(agent.contains(line), "{line} is not in {agent}");
    }
}

#[test]
fn its_authority_survives_a_restart() {
    let rendered = render(&[]);
    let server = config(&rendered, "spire-server", "server.conf");
    assert!(server.contains(r#"KeyManager "disk""#), "{server}");
    let set = rendered.get("StatefulSet", "spire-server");
    assert_eq!(set["spec"]["volumeClaimTemplates"][0]["metadata"]["name"], "data");
    let one = container(rendered.pod("StatefulSet", "spire-server"), "spire-server");
    assert_eq!(mount(one, "data").unwrap()["mountPath"], "/run/spire/data");
    let rendered = render(&["spire.server.data.ephemeral=true"]);
    assert!(rendered.get("StatefulSet", "spire-server")["spec"]["volumeClaimTemplates"].is_null());
}

#[test]
fn its_steps_are_values() {
    let rendered = render(&[
        "spire.server.cacheReloadInterval=1s",
        "spire.server.caTTL=2h",
        "spire.server.svidTTL=2m",
        "spire.agent.syncInterval=1s",
        "spire.controllerManager.gcIntervalSeconds=3",
    ]);
    let server = config(&rendered, "spire-server", "server.conf");
    for line in
        [r#"cache_reload_interval = "1s""#, r#"ca_ttl = "2h""#, r#"default_x509_svid_ttl = "2m""#]
    {
        assert!(server.contains(line), "{line} is not in {server}");
    }
    assert!(config(&rendered, "spire-agent", "agent.conf").contains(r#"sync_interval = "1s""#));
    let manager = config(&rendered, "spire-server", "controller-manager.yaml");
    assert!(manager.contains("gcInterval: 3000000000\n"), "{manager}");
}

#[test]
fn its_controller_manager_sees_the_release_namespace() {
    let rendered = render(&[]);
    let manager = config(&rendered, "spire-server", "controller-manager.yaml");
    let manager: serde_json::Value = serde_saphyr::from_str(manager).unwrap();
    assert_eq!(manager["ignoreNamespaces"], json!(["^kube-system$", "^kube-public$"]));
}

#[test]
fn a_changed_configuration_restarts_what_reads_it() {
    let sum = |sets: &[&str], kind, name| {
        let rendered = render(sets);
        let metadata = &rendered.get(kind, name)["spec"]["template"]["metadata"];
        metadata["annotations"]["vsecm.com/config"].clone()
    };
    for (kind, name) in [("StatefulSet", "spire-server"), ("DaemonSet", "spire-agent")] {
        assert_ne!(sum(&[], kind, name), sum(&["spire.logLevel=DEBUG"], kind, name));
    }
}

#[test]
fn the_kubelets_certificate_is_checked_as_told() {
    let agent = |sets: &[&str]| config(&render(sets), "spire-agent", "agent.conf").to_owned();
    assert!(agent(&[]).contains("skip_kubelet_verification = true"));
    let checked = agent(&["spire.agent.kubelet.verification=clusterCA"]);
    assert!(!checked.contains("kubelet_"), "{checked}");
    let file = agent(&[
        "spire.agent.kubelet.verification=file",
        "spire.agent.kubelet.caFile=/etc/kubernetes/pki/ca.crt",
    ]);
    assert!(file.contains(r#"kubelet_ca_path = "/kubelet-ca/ca.crt""#), "{file}");
}

#[test]
fn the_workload_api_comes_by_folder_or_by_spiffes_driver() {
    let pods = [
        ("StatefulSet", "vsecm-safe"),
        ("Deployment", "vsecm-sentinel"),
        ("DaemonSet", "vsecm-node"),
    ];
    let volume = |sets: &[&str], kind, name| {
        named(&render(sets).pod(kind, name)["volumes"], "spire-agent-socket").clone()
    };
    for (kind, name) in pods {
        let folder = json!({"path": "/run/x", "type": "DirectoryOrCreate"});
        let sets = ["spire.workloadSocketDir=/run/x"];
        assert_eq!(volume(&sets, kind, name)["hostPath"], folder, "{name}");
        let driver = json!({"driver": "csi.spiffe.io", "readOnly": true});
        assert_eq!(volume(&["spire.workloadSocket=csi"], kind, name)["csi"], driver, "{name}");
    }
}

#[test]
fn the_names_of_its_sockets_are_values() {
    let rendered = render(&["spire.workloadSocketName=w.sock", "spire.adminSocketName=a.sock"]);
    let agent = container(rendered.pod("DaemonSet", "vsecm-node"), "node-agent");
    assert_eq!(env(agent, "SPIFFE_ENDPOINT_SOCKET"), "unix:///spire-agent-socket/w.sock");
    assert_eq!(env(agent, "SPIRE_ADMIN_ENDPOINT_SOCKET"), "unix:///spire-admin-socket/a.sock");
}
