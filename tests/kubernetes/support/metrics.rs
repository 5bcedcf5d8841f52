//! Metrics, through the API server: they tell what no object shows.

use super::{
    awaiting::{self, SOON},
    helm::SYSTEM,
    installation,
    kubectl::Kubectl,
};

/// What a pod of ours tells Prometheus.
#[track_caller]
pub(crate) fn of(pod: &str) -> Result<String, String> {
    let path = format!("/api/v1/namespaces/{SYSTEM}/pods/http:{pod}:8082/proxy/metrics");
    let output = Kubectl::cluster().run(["get", "--raw", &path]);
    if output.is_ok() { Ok(output.stdout) } else { Err(output.tell()) }
}

/// Waits until node-agent of a node counts so many volumes that wait for a reason.
#[track_caller]
pub(crate) fn counts_waiting(node: &str, reason: &str, count: u64) {
    counts(node, &format!("vsecm_node_agent_waiting{{reason=\"{reason}\"}}"), count);
}

/// Waits until it counts so many volumes that are there and get no news for a reason.
#[track_caller]
pub(crate) fn counts_stale(node: &str, reason: &str, count: u64) {
    counts(node, &format!("vsecm_node_agent_stale{{reason=\"{reason}\"}}"), count);
}

#[track_caller]
fn counts(node: &str, series: &str, count: u64) {
    awaiting::value(&format!("{series} {count} on {node}"), SOON, || {
        let metrics = of(&installation::pod_on("vsecm-node", node))?;
        let seen = value(&metrics, series).ok_or_else(|| format!("no {series}: {metrics}"))?;
        if seen == count { Ok(()) } else { Err(format!("{seen}")) }
    });
}

/// The value of a series.
pub(crate) fn value(metrics: &str, series: &str) -> Option<u64> {
    let value = metrics.lines().find_map(|line| line.strip_prefix(series));
    value.and_then(|value| value.trim().parse().ok())
}
