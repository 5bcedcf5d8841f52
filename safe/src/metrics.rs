//! What `/metrics` says. Never a name or a value of a secret ([I7]).

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use tokio::sync::watch;
use vsecm_safe_api::probe::prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, TypedMetric as _, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use vsecm_safe_api::probe::{Readiness, swap_is_possible};

use time::OffsetDateTime;

use crate::{
    deliveries::{Counts, Deliveries},
    feed::Feed,
};

/// Looked up at each scrape: nothing has to be kept in step.
#[derive(Debug)]
struct Gauges {
    state: watch::Receiver<Readiness>,
    feed: Arc<OnceLock<Arc<Feed>>>,
    deliveries: Arc<Deliveries>,
    key_mount_changed: watch::Receiver<bool>,
}

/// The gauges of Safe. Those of the feed appear with it: before, there are not zero secrets.
pub fn registry(
    state: watch::Receiver<Readiness>,
    feed: Arc<OnceLock<Arc<Feed>>>,
    deliveries: Arc<Deliveries>,
    key_mount_changed: watch::Receiver<bool>,
) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Gauges { state, feed, deliveries, key_mount_changed }));
    registry
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name: &str, help: &str, value: i64| {
            let gauge = ConstGauge::new(value);
            let descriptor =
                encoder.encode_descriptor(name, help, None, ConstGauge::<i64>::TYPE)?;
            gauge.encode(descriptor)
        };
        let is_ready = self.state.borrow().is_ok();
        gauge("vsecm_safe_ready", "Whether Safe serves", is_ready.into())?;
        let is_changed = *self.key_mount_changed.borrow();
        gauge(
            "vsecm_safe_root_key_mount_changed",
            "Whether the mounted root key is not the one in use",
            is_changed.into(),
        )?;
        gauge(
            "vsecm_swap_possible",
            "Whether the kernel may write this process's memory to a swap device",
            swap_is_possible().into(),
        )?;
        if let Some(feed) = self.feed.get() {
            let counts = feed.counts();
            gauge("vsecm_safe_secrets", "Secrets that are served now", count(counts.secrets))?;
            gauge("vsecm_safe_watchers", "Watches that are open", count(counts.watchers))?;
        }
        let now = OffsetDateTime::now_utc();
        let Counts { deliveries, waiting, reporting } = self.deliveries.registry().counts(now);
        let help = "Pods that have acknowledged what they show";
        gauge("vsecm_safe_deliveries", help, count(deliveries))?;
        let help = "Pods that wait for their secret, as their node agents say";
        gauge("vsecm_safe_waiting_pods", help, count(waiting))?;
        let help = "Node agents that report";
        gauge("vsecm_safe_reporting_nodes", help, count(reporting))?;
        let mut refused = encoder.encode_descriptor(
            "vsecm_safe_acknowledgements_refused",
            "Acknowledgements that were refused, by the reason",
            None,
            MetricType::Counter,
        )?;
        for (refusal, times) in self.deliveries.refused() {
            let labels = [("reason", refusal.label())];
            ConstCounter::new(times).encode(refused.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn count(of: usize) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use vsecm_safe_api::{
        name::SecretKey, position::Lineage, probe::prometheus_client::encoding::text::encode,
    };

    use super::*;
    use crate::readiness::State;

    #[test]
    fn the_feeds_gauges_appear_with_the_feed() {
        let state = State::starting();
        let (feed, changed) = (Arc::new(OnceLock::new()), watch::Sender::new(false));
        let registry =
            registry(state.subscribe(), Arc::clone(&feed), Arc::default(), changed.subscribe());
        let text = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text
        };
        assert!(text().contains("vsecm_safe_ready 0\n"), "{}", text());
        assert!(text().contains("vsecm_swap_possible "), "{}", text());
        assert!(!text().contains("vsecm_safe_secrets"), "{}", text());
        for line in [
            "vsecm_safe_deliveries 0",
            "vsecm_safe_waiting_pods 0",
            "vsecm_safe_reporting_nodes 0",
            "vsecm_safe_acknowledgements_refused_total{reason=\"no_watch\"} 0",
        ] {
            assert!(text().contains(&format!("{line}\n")), "{line}: {}", text());
        }
        let opened = Arc::new(Feed::new(Lineage::from_random([1; 16])));
        let _watcher = opened.watch(&SecretKey::parse("default", "db").unwrap());
        feed.set(opened).unwrap();
        state.ready();
        changed.send_replace(true);
        for line in ["safe_ready 1", "safe_secrets 0", "safe_watchers 1", "mount_changed 1"] {
            assert!(text().contains(&format!("{line}\n")), "{line}: {}", text());
        }
    }
}
