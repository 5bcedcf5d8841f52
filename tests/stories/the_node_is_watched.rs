//! Metrics, the table of volumes, and alerts: of real processes.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Output,
    time::Duration,
};

use serde_json::Value;
use vsecm_tests::{
    Component, Options, PodSpec, awaiting,
    story::{self, SOON, Story},
};

/// What tests of the chart hold alerts and the dashboard against.
const DOCUMENTED: &str = include_str!("../monitoring/metrics.txt");

/// A port that was free a moment ago.
fn port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A playground whose safe and node-agent have metrics.
async fn watched() -> (Story, SocketAddr, SocketAddr) {
    let (safe, agent) = (port(), port());
    let name = "VSECM_PROBE_READINESS_PORT";
    let at = |component, at: SocketAddr| (component, name.to_owned(), at.to_string());
    let environment = vec![at(Component::Safe, safe), at(Component::NodeAgent, agent)];
    let hold = Duration::from_secs(2);
    let options = Options { hold, environment, ..Options::default() };
    (story::start_with(options).await.unwrap(), safe, agent)
}

fn scrape(at: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(at).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_head, body)| body.to_owned())
}

/// Waits for a sample, given as its whole line without the value, to satisfy `wanted`.
async fn sample(at: SocketAddr, name: &str, wanted: impl Fn(f64) -> bool) -> f64 {
    let found = || {
        let text = scrape(at)?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line?.parse().ok().filter(|value| wanted(*value))
    };
    awaiting::value(name, SOON, found).await.unwrap()
}

/// Whether a sample is that whole number.
fn is(number: u32) -> impl Fn(f64) -> bool {
    move |sample| sample.total_cmp(&f64::from(number)).is_eq()
}

/// Name and kind of each metric of ours.
fn names(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter(|name| name.starts_with("vsecm_")).map(str::to_owned).collect()
}

/// `vsecm-csi volumes`, as csi's container has it.
fn volumes(story: &Story, output: &str) -> Output {
    let peer = story.users().peer(Component::NodeAgent);
    std::process::Command::new(story.binaries().join("vsecm-csi"))
        .args(["volumes", "--output", output])
        .env("VSECM_NODE_AGENT_SOCKET", story.layout().node_agent_socket())
        .env("VSECM_NODE_AGENT_PEER", peer)
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_as_documented() {
    let (story, safe, agent) = watched().await;
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web").attribute("audit", "opens")).unwrap();
    pod.ready(SOON).await.unwrap();
    assert_eq!(pod.read("a").await.unwrap(), b"1");
    let of = |metric: &str| format!("vsecm_node_agent_{metric}");
    sample(agent, &of("volumes{state=\"serving\"}"), is(1)).await;
    sample(agent, &of("audit_lines_total"), |count| count >= 1.0).await;
    sample(agent, &of("fuse_requests_total{operation=\"open\"}"), |count| count >= 1.0).await;
    for peer in ["safe", "spire", "csi", "keeper"] {
        sample(agent, &of(&format!("connected{{peer=\"{peer}\"}}")), is(1)).await;
    }
    for process in ["node-agent", "csi", "keeper"] {
        let name = of(&format!("process_start_time_seconds{{process=\"{process}\"}}"));
        sample(agent, &name, |start| start > 1.6e9).await;
    }
    story.register("web", "default", br#"{"a":"2"}"#).await.unwrap();
    sample(agent, &of("swap_seconds_count"), is(1)).await;
    sample(agent, &of("behind"), is(0)).await;
    let mut exposed = names(&scrape(agent).unwrap());
    exposed.extend(names(&scrape(safe).unwrap()));
    let documented: BTreeSet<_> = DOCUMENTED.lines().map(str::to_owned).collect();
    assert_eq!(exposed, documented);
    let text = scrape(agent).unwrap();
    assert!(!text.contains("web"), "a metric names a pod or a secret");
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_away_or_died_shows_in_metrics() {
    let (story, _safe, agent) = watched().await;
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web")).unwrap();
    pod.ready(SOON).await.unwrap();
    let connected = |peer: &str| format!("vsecm_node_agent_connected{{peer=\"{peer}\"}}");
    let started = "vsecm_node_agent_process_start_time_seconds{process=\"csi\"}";
    let first = sample(agent, started, |_| true).await;
    story.crash(Component::Csi).await.unwrap();
    sample(agent, &connected("csi"), is(0)).await;
    // a version that csi does not publish
    story.register("web", "default", br#"{"a":"2"}"#).await.unwrap();
    sample(agent, "vsecm_node_agent_behind", is(1)).await;
    sample(agent, "vsecm_node_agent_oldest_behind_seconds", |seconds| seconds > 0.0).await;
    story.start_component(Component::Csi).await.unwrap();
    sample(agent, &connected("csi"), is(1)).await;
    sample(agent, started, |start| start > first).await;
    sample(agent, "vsecm_node_agent_behind", is(0)).await;
    story.crash(Component::Keeper).await.unwrap();
    sample(agent, &connected("keeper"), is(0)).await;
    story.start_component(Component::Keeper).await.unwrap();
    sample(agent, &connected("keeper"), is(1)).await;
    story.crash(Component::Safe).await.unwrap();
    sample(agent, &connected("safe"), is(0)).await;
    story.start_component(Component::Safe).await.unwrap();
    sample(agent, &connected("safe"), is(1)).await;
    story.crash(Component::NodeAgent).await.unwrap();
    sample(agent, "vsecm_node_agent_restarts_total", is(1)).await;
    // one that a successor has not seen is only taken for withdrawn a minute later
    sample(agent, "vsecm_node_agent_identities{state=\"issued\"}", is(1)).await;
    story.withdraw_identity(&pod);
    let stale = "vsecm_node_agent_stale{reason=\"identity_withdrawn\"}";
    sample(agent, stale, is(1)).await;
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_names_each_volume_and_why_it_waits() {
    let (story, _safe, agent) = watched().await;
    story.register("web", "default", br#"{"a":"canary"}"#).await.unwrap();
    // more than a page
    let mut pods = Vec::new();
    for number in 0..9 {
        let spec = PodSpec::new(&format!("web-{number}")).workload("web");
        pods.push(story.create_pod(spec).unwrap());
    }
    let waiting = story.create_pod(PodSpec::new("late").namespace("shop")).unwrap();
    for pod in &pods {
        pod.ready(SOON).await.unwrap();
    }
    waiting.waits(SOON).await.unwrap();
    sample(agent, "vsecm_node_agent_oldest_wait_seconds", |seconds| seconds > 0.0).await;
    let printed = volumes(&story, "json");
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let listed: Vec<Value> = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(listed.len(), 10);
    let late = listed.iter().find(|volume| volume["pod"] == "late").unwrap();
    assert_eq!((&late["stage"], &late["namespace"]), (&"waiting".into(), &"shop".into()));
    assert_eq!(late["reasons"], serde_json::json!(["not_registered"]));
    assert!(late["condition"].as_str().unwrap().contains("safe -w late -n shop"), "{late}");
    let served = listed.iter().filter(|volume| volume["stage"] == "serving");
    assert!(served.clone().count() == 9 && served.into_iter().all(|v| v["revision"].is_u64()));
    let printed = volumes(&story, "table");
    let table = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.status.success() && table.lines().count() == 11, "{table}");
    assert!(!table.contains("canary"), "{table}");
    let last = table.lines().last().unwrap();
    assert!(last.starts_with("shop") && last.contains("not_registered: no secret named"), "{last}");
    story.stop(Component::NodeAgent).await.unwrap();
    let refused = volumes(&story, "table");
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("node-agent cannot be reached"), "{said}");
    story.start_component(Component::NodeAgent).await.unwrap();
    story.end().await.unwrap();
}
