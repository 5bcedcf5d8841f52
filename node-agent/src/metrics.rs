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
    health::Stage,
    identity::own::OwnIdentity,
    kubernetes::driver::Driver,
    mapping::locked_and_unlocked,
    volumes::{Census, Volumes},
    wait::Wait,
    watch::Figures,
};

/// Seconds: a secret that is there, one that comes soon, the holds of the kubelet.
const PUBLISH_BOUNDS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0];

/// How long volumes took from the first publish to the moment they were served.
pub fn publish_times() -> Histogram {
    Histogram::new(PUBLISH_BOUNDS)
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
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// All metrics of this process.
pub fn registry(sources: Sources, publish_times: Histogram) -> Registry {
    let mut registry = Registry::default();
    // as Safe names it
    registry.register_collector(Box::new(Swap));
    let own = registry.sub_registry_with_prefix("vsecm_node_agent");
    own.register(
        "publish_to_served_seconds",
        "From the first publish of a volume until it was served",
        publish_times,
    );
    own.register_collector(Box::new(sources));
    registry
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

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Census { serving, ready, waiting, stale, identities } = self.volumes.census();
        let encoder = &mut encoder;
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
