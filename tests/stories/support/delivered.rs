//! What Safe knows of who has what, and who waits.

use std::time::Instant;

use vsecm_safe_api::proto;
use vsecm_tests::{Playground, story::SOON};

use super::operator::Operator;

/// Deliveries and waiting pods, as an operator is told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) deliveries: Vec<proto::Delivery>,
    pub(crate) waiting: Vec<proto::WaitingPod>,
}

impl Known {
    /// Pods with the revision that each shows, in order.
    pub(crate) fn shown(&self) -> Vec<(&str, u64)> {
        self.deliveries.iter().map(|delivery| (&*delivery.pod, delivery.revision)).collect()
    }

    /// Why a pod waits, in one word.
    pub(crate) fn reason(&self, pod: &str) -> Option<&str> {
        let waiting = self.waiting.iter().find(|waiting| waiting.name == pod)?;
        waiting.waiting.as_ref().map(|waiting| &*waiting.reason)
    }
}

/// Asks Safe until it knows what is `wanted`; the moment before this, it knew something else.
pub(crate) async fn until(
    operator: &Operator,
    what: &str,
    wanted: impl Fn(&Known) -> bool,
) -> Known {
    let deadline = Instant::now() + SOON;
    loop {
        // Safe may be about to start
        let known = operator.deliveries().await.unwrap_or_default();
        if wanted(&known) {
            return known;
        }
        assert!(Instant::now() < deadline, "{what} did not come within {SOON:?}: {known:?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Each of these pods shows this revision, and no other pod shows anything.
pub(crate) async fn all_show(operator: &Operator, pods: &[&str], revision: u64) -> Known {
    let wanted: Vec<_> = pods.iter().map(|pod| (*pod, revision)).collect();
    let what = format!("revision {revision} in {pods:?}");
    until(operator, &what, |known| known.shown() == wanted).await
}

/// Audit lines about this action with this outcome.
pub(crate) fn audited(story: &Playground, action: &str, outcome: &str) -> Vec<serde_json::Value> {
    let mut lines = story.audit().unwrap();
    let says = |line: &serde_json::Value, text: &str| line.to_string().contains(text);
    lines.retain(|line| {
        says(line, &format!(r#""action":"{action}""#))
            && says(line, &format!(r#""outcome":"{outcome}""#))
    });
    lines
}
