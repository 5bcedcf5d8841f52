//! What Prometheus sees of this process; counted when it asks.

use std::{fmt, sync::Arc, time::SystemTime};

use tokio::sync::watch;
use vsecm_safe_api::probe::{
    prometheus_client::{
        collector::Collector,
        encoding::{DescriptorEncoder, EncodeMetric as _},
        metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, histogram::Histogram},
        registry::Registry,
    },
    swap_is_possible,
};

use crate::{
    audit::Audit,
    filesystem::{Operation, Requests},
    health::Stage,
    identity::own::OwnIdentity,
    kubernetes::driver::Driver,
    mapping::locked_and_unlocked,
    peers::{Peer, Peers, safe_is_here, spire_is_here, started},
    supervisor,
    volumes::{Census, Volumes},
    wait::Wait,
    watch::Figures,
};

/// Seconds: a secret that is there, one that comes soon, the holds of the kubelet.
const PUBLISH_BOUNDS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0];

/// Seconds: a swap takes milliseconds; csi's death and a node in need take longer.
const SWAP_BOUNDS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 10.0, 60.0];

/// How long things take.
#[derive(Clone, Debug)]
pub struct Times {
    /// From the first publish of a volume to the moment it was served.
    pub publish: Histogram,
    /// From the moment a newer version was known until readers saw it.
    pub swap: Histogram,
}

impl Default for Times {
    fn default() -> Self {
        Self { publish: Histogram::new(PUBLISH_BOUNDS), swap: Histogram::new(SWAP_BOUNDS) }
    }
}

/// Where the numbers come from.
pub struct Sources {
    /// Volumes and identities.
    pub volumes: Arc<Volumes>,
    /// This process's identity.
    pub own: OwnIdentity,
    /// The `CSIDriver` object.
    pub driver: watch::Receiver<Driver>,
    /// What this process does.
    pub stage: watch::Receiver<Stage>,
    /// csi and the keeper.
    pub peers: Peers,
    /// Opens that are recorded.
    pub audit: Audit,
    /// What the kernel asks.
    pub requests: Arc<Requests>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// All metrics of this process.
pub fn registry(sources: Sources, times: Times) -> Registry {
    let mut registry = Registry::default();
    // as Safe names it
    registry.register_collector(Box::new(Swap));
    let own = registry.sub_registry_with_prefix("vsecm_node_agent");
    own.register(
        "publish_to_served_seconds",
        "From the first publish of a volume until it was served",
        times.publish,
    );
    own.register(
        "swap_seconds",
        "From the moment a newer version was known until readers saw it",
        times.swap,
    );
    own.register_collector(Box::new(sources));
    registry
}

/// Started when this process was, by the clock of the kernel.
fn own_start() -> Option<f64> {
    started(i32::try_from(std::process::id()).ok()?)
}

type Labelled = (&'static str, usize);

fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    label: &'static str,
    values: impl IntoIterator<Item = Labelled>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (value, count) in values {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let labels = [(label, value)];
        ConstGauge::new(count).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: usize) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric)
}

fn flag(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, is_set: bool) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(i64::from(is_set)).encode(metric)
}

fn number(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    value: f64,
) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(metric)
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    value: u64,
) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(value).encode(metric)
}

impl Sources {
    /// Processes: which are there, and since when.
    fn processes(&self, encoder: &mut DescriptorEncoder<'_>, census: &Census) -> fmt::Result {
        let has_own = self.own.lack().is_none();
        let mut connected = vec![
            ("safe", usize::from(safe_is_here(census))),
            ("spire", usize::from(spire_is_here(census, has_own))),
        ];
        // while another pod serves, they are with that one
        if *self.stage.borrow() == Stage::Serving {
            let here = |peer: Peer| (peer.label(), usize::from(self.peers.is_here(peer)));
            connected.extend(Peer::ALL.map(here));
        }
        let help = "Whether the peer can be asked, or asks; safe and spire by what volumes suffer";
        gauges(encoder, ("connected", help), "peer", connected)?;
        let (name, help) = ("process_start_time_seconds", "When the process started, in Unix time");
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        let of_peer = |peer: Peer| (peer.label(), self.peers.started(peer));
        for (process, started) in
            [("node-agent", own_start())].into_iter().chain(Peer::ALL.map(of_peer))
        {
            if let Some(started) = started {
                let labels = [("process", process)];
                ConstGauge::new(started).encode(metric.encode_family(&labels)?)?;
            }
        }
        let help = "How often the supervisor of this container has started the server again";
        counter(encoder, ("restarts", help), supervisor::restarts())
    }

    /// What readers cause.
    fn readers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests of the kernel, which asks nothing of files that it has cached";
        let kind = MetricType::Counter;
        let mut metric = encoder.encode_descriptor("fuse_requests", help, None, kind)?;
        for operation in Operation::ALL {
            let labels = [("operation", operation.label())];
            let count = ConstCounter::new(self.requests.of(operation));
            count.encode(metric.encode_family(&labels)?)?;
        }
        let help = "Opens of files that have an audit line";
        counter(encoder, ("audit_lines", help), self.audit.lines())?;
        let help = "Opens of files that have none, since more came than could be written";
        counter(encoder, ("audit_dropped", help), self.audit.dropped())
    }

    /// How late volumes are.
    fn delays(encoder: &mut DescriptorEncoder<'_>, census: &Census) -> fmt::Result {
        let help = "How long the pod waits that waits longest, in this process's time";
        number(encoder, ("oldest_wait_seconds", help), census.oldest_wait.as_secs_f64())?;
        let help = "Volumes that do not show the version yet that they are to show";
        let behind = i64::try_from(census.behind).unwrap_or(i64::MAX);
        let metric = encoder.encode_descriptor("behind", help, None, MetricType::Gauge)?;
        ConstGauge::new(behind).encode(metric)?;
        let help = "Since when that is so, for the one that is so longest";
        number(encoder, ("oldest_behind_seconds", help), census.oldest_behind.as_secs_f64())
    }
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let census = self.volumes.census();
        let encoder = &mut encoder;
        self.processes(encoder, &census)?;
        self.readers(encoder)?;
        Self::delays(encoder, &census)?;
        let Census { serving, ready, waiting, stale, identities, .. } = census;
        let waiting_pods = waiting.values().sum();
        let states = [("serving", serving), ("ready", ready), ("waiting", waiting_pods)];
        gauges(encoder, ("volumes", "Volumes of this node by their state"), "state", states)?;
        let by_reason = |counts: std::collections::BTreeMap<Wait, usize>| {
            Wait::ALL.map(|wait| (wait.label(), counts.get(&wait).copied().unwrap_or(0)))
        };
        let help = "Volumes whose pods wait for them, by the reason";
        gauges(encoder, ("waiting", help), "reason", by_reason(waiting))?;
        let help = "Volumes that are served and get no news, by each of the reasons";
        gauges(encoder, ("stale", help), "reason", by_reason(stale))?;
        let help = "Identities of pods by their state";
        let states = ["none", "issued", "ended", "withdrawn"];
        gauges(encoder, ("identities", help), "state", states.into_iter().zip(identities))?;
        let has_own = self.own.lack().is_none();
        flag(encoder, "own_identity", "Whether this process has its own identity", has_own)?;
        let is_good = *self.driver.borrow() == Driver::Good;
        flag(encoder, "csidriver_good", "Whether the CSIDriver object is as it must be", is_good)?;
        let (Figures { secrets, bytes, started }, since) = self.volumes.retention();
        let help = "Secrets whose content is retained though no volume shows it";
        gauge(encoder, "retained", help, secrets)?;
        let help = "Bytes of the retained content";
        gauge(encoder, "retained_bytes", help, bytes)?;
        let (locked, unlocked) = locked_and_unlocked();
        let help = "Bytes of documents, by whether they are locked in memory";
        let states = [("locked", locked), ("unlocked", unlocked)];
        gauges(encoder, ("document_bytes", help), "state", states)?;
        let help = "Volumes that were started from content which Safe could not be asked about";
        let metric =
            encoder.encode_descriptor("unconfirmed_starts", help, None, MetricType::Counter)?;
        ConstCounter::new(started).encode(metric)?;
        let age = since.and_then(|since| SystemTime::now().duration_since(since).ok());
        let help = "Seconds since Safe confirmed what is shown, of the secret with the oldest word";
        let metric =
            encoder.encode_descriptor("unconfirmed_seconds", help, None, MetricType::Gauge)?;
        ConstGauge::new(age.unwrap_or_default().as_secs_f64()).encode(metric)?;
        let stands_by = *self.stage.borrow() == Stage::StandingBy;
        flag(encoder, "standing_by", "Whether another pod serves this node", stands_by)
    }
}

#[derive(Debug)]
struct Swap;

impl Collector for Swap {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Whether the kernel may write this process's memory to a swap device";
        flag(&mut encoder, "vsecm_swap_possible", help, swap_is_possible())
    }
}
