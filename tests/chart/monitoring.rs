//! What watches the system: off unless asked for, and never by a metric that nobody exposes.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{CHART, list, render, text};

/// The metrics of all processes; `metrics_are_as_documented`, a story, holds it against them.
const METRICS: &str = include_str!("../monitoring/metrics.txt");

const ALL: [&str; 3] = [
    "monitoring.podMonitor.enabled=true",
    "monitoring.alerts.enabled=true",
    "monitoring.dashboard.enabled=true",
];

fn known() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in METRICS.lines() {
        let (name, kind) = line.split_once(' ').unwrap();
        match kind {
            "counter" => drop(names.insert(format!("{name}_total"))),
            "histogram" => names.extend(["bucket", "sum", "count"].map(|s| format!("{name}_{s}"))),
            _gauge => drop(names.insert(name.to_owned())),
        }
    }
    names
}

/// The names of our metrics in an expression.
fn asked(expression: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expression.split(|c: char| !is_name(c));
    words.filter(|word| word.starts_with("vsecm_")).collect()
}

#[track_caller]
fn is_known(expression: &str) {
    let (names, known) = (asked(expression), known());
    assert!(!names.is_empty(), "{expression} asks for no metric of ours");
    for name in names {
        assert!(known.contains(name), "nobody exposes {name}, which {expression} asks for");
    }
}

fn rules(spec: &Value) -> impl Iterator<Item = &Value> {
    list(&spec["groups"]).iter().flat_map(|group| list(&group["rules"]))
}

#[test]
fn nothing_is_made_for_an_operator_who_may_not_be_there() {
    let rendered = render(&[]);
    for kind in ["PodMonitor", "PrometheusRule"] {
        assert_eq!(rendered.of(kind).count(), 0, "{kind}");
    }
    assert!(rendered.find("ConfigMap", "vsecm-dashboard").is_none());
}

#[test]
fn safe_and_the_nodes_are_scraped_at_a_port_that_they_have() {
    let rendered = render(&[ALL[0], "monitoring.podMonitor.labels.team=watch", "node.namespace=n"]);
    for (kind, name, namespace) in
        [("StatefulSet", "vsecm-safe", "vsecm-system"), ("DaemonSet", "vsecm-node", "n")]
    {
        let monitor = rendered.get("PodMonitor", name);
        assert_eq!(monitor["metadata"]["namespace"], namespace);
        assert_eq!(monitor["metadata"]["labels"]["team"], "watch");
        let labels = &rendered.get(kind, name)["spec"]["template"]["metadata"]["labels"];
        let wanted = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
        assert!(wanted.iter().all(|(key, value)| labels[key] == *value), "{monitor}");
        let [endpoint] = list(&monitor["spec"]["podMetricsEndpoints"]) else { panic!("{monitor}") };
        let containers = list(&rendered.pod(kind, name)["containers"]);
        let mut ports = containers.iter().flat_map(|container| list(&container["ports"]));
        assert!(ports.any(|port| port["name"] == endpoint["port"]), "{monitor}");
    }
}

#[test]
fn every_alert_asks_for_what_is_exposed_and_says_what_to_do() {
    let rendered = render(&[ALL[1]]);
    let spec = &rendered.get("PrometheusRule", "vsecm")["spec"];
    let mut names = BTreeSet::new();
    for rule in rules(spec) {
        is_known(text(&rule["expr"]));
        let name = text(&rule["alert"]);
        assert!(name.starts_with("Vsecm") && names.insert(name), "{name}");
        let annotations = &rule["annotations"];
        assert!(text(&annotations["summary"]).ends_with('.'), "{name}");
        let runbook = text(&annotations["runbook"]);
        let (page, section) = runbook.rsplit_once(' ').map_or(("", ""), |_| {
            let at = runbook.find("docs/").unwrap();
            runbook[at..].split_once(", ").unwrap()
        });
        let page = std::fs::read_to_string(format!("{CHART}/../../{page}")).unwrap();
        let heading = |line: &str| line.trim_start_matches('#').trim() == section;
        let has = page.lines().any(|line| line.starts_with('#') && heading(line));
        assert!(has, "{name} points to a section that is not there: {section}");
        let severity = text(&rule["labels"]["severity"]);
        assert!(["critical", "warning", "info"].contains(&severity), "{name}");
    }
    assert!(names.len() >= 15, "{names:?}");
}

#[test]
fn every_panel_of_the_dashboard_asks_for_what_is_exposed() {
    let rendered = render(&[ALL[2]]);
    let map = rendered.get("ConfigMap", "vsecm-dashboard");
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let dashboard: Value = serde_json::from_str(text(&map["data"]["vsecm.json"])).unwrap();
    let mut panels = 0;
    for panel in list(&dashboard["panels"]) {
        for target in list(&panel["targets"]) {
            is_known(text(&target["expr"]));
            panels += 1;
        }
    }
    assert!(panels >= 18, "{panels}");
}
