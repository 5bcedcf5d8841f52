//! Why a pod waits, in words for `kubectl describe pod` ([I10]). Pure.

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use vsecm_node_agent_api::volume::PodRef;
use vsecm_safe_api::state::{Absent, Reason};

use crate::{
    identity::{Issue, Standing},
    snapshot::SnapshotKey,
    watch::Feed,
};

fn moment(time: impl Into<OffsetDateTime>) -> String {
    let time: OffsetDateTime = time.into();
    let whole = time.replace_nanosecond(0).unwrap_or(time);
    whole.format(&Rfc3339).unwrap_or_default()
}

fn at(absent: &Absent) -> String {
    absent.at.map(moment).map_or_else(String::new, |time| format!(" at {time}"))
}

/// Why the pod has no content yet.
pub(super) fn waiting(
    pod: &PodRef,
    standing: &Standing,
    feed: Option<(&SnapshotKey, &Feed)>,
) -> String {
    match (&standing.issue, feed) {
        (Issue::Issued(_), Some((key, feed))) => for_content(key, feed),
        (Issue::Withdrawn, _) => withdrawn(pod),
        _ => for_identity(pod, standing),
    }
}

/// The pod lost its identity.
pub(super) fn withdrawn(pod: &PodRef) -> String {
    let PodRef { namespace, name, .. } = pod;
    format!("SPIRE has withdrawn the identity of pod {namespace}/{name}")
}

fn for_identity(pod: &PodRef, standing: &Standing) -> String {
    let PodRef { namespace, name, service_account, .. } = pod;
    match &standing.trouble {
        Some(trouble) => {
            format!("no identity for pod {namespace}/{name} from SPIRE: {trouble}")
        }
        None => format!(
            "no SPIRE entry for pod {namespace}/{name} (service account {service_account}) yet: \
             it needs the label vsecm.com/workload, or a ClusterSPIFFEID that matches it"
        ),
    }
}

fn for_content(key: &SnapshotKey, feed: &Feed) -> String {
    let (namespace, name) = (&key.secret.namespace, &key.secret.name);
    if let Some(trouble) = &feed.trouble {
        let since = moment(trouble.since);
        return format!("Safe is unreachable since {since}: {}", trouble.reason);
    }
    let command = format!(
        "kubectl exec -i -n vsecm-system deploy/vsecm-sentinel -- safe -w {name} -n {namespace} -s - \
         (the value on stdin)"
    );
    let Some(absent) = &feed.absent else {
        return format!(
            "waiting for Safe's answer about the secret {name} in namespace {namespace}"
        );
    };
    let at = at(absent);
    match absent.reason {
        Reason::NotRegistered => format!(
            "no secret named {name} in namespace {namespace} yet, register it with: {command}"
        ),
        Reason::Deleted => format!(
            "the secret {name} in namespace {namespace} was deleted{at}, register it again with: {command}"
        ),
        Reason::Expired => format!(
            "the secret {name} in namespace {namespace} expired{at}, register a new value with: {command}"
        ),
        Reason::NotYetValid => {
            let time = absent.at.map_or_else(|| "a later time".to_owned(), moment);
            format!("the secret {name} in namespace {namespace} is not valid before {time}")
        }
        Reason::Unreadable => format!(
            "Safe has the secret {name} in namespace {namespace} but cannot read its record; its log says why"
        ),
    }
}

/// What an operator should know of a volume that is there.
pub(super) fn condition(
    pod: &PodRef,
    standing: &Standing,
    feed: Option<&Feed>,
    swap: Option<&str>,
) -> Option<String> {
    let mut parts = Vec::new();
    match (&standing.issue, &standing.trouble) {
        (Issue::Withdrawn, _) => parts.push(format!("{}; it gets no updates", withdrawn(pod))),
        (_, Some(trouble)) => parts.push(format!("SPIRE: {trouble}")),
        _ => {}
    }
    if let Some(trouble) = feed.and_then(|feed| feed.trouble.as_ref()) {
        let since = moment(trouble.since);
        parts.push(format!("Safe is unreachable since {since}: {}", trouble.reason));
    }
    if let Some(absent) = feed.and_then(|feed| feed.absent.as_ref()) {
        parts.push(format!("Safe has no content now ({:?})", absent.reason));
    }
    if let Some(swap) = swap {
        parts.push(format!("an update waits: {swap}"));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use vsecm_safe_api::position::{Lineage, Revision};

    use super::*;
    use crate::{identity::tests::pod, snapshot::tests::key, watch::Trouble};

    fn absent(reason: Reason) -> Feed {
        Feed {
            absent: Some(Absent {
                reason,
                at: Some(OffsetDateTime::UNIX_EPOCH),
                lineage: Lineage::from_random([0; 16]),
                revision: Revision(1),
            }),
            ..Feed::default()
        }
    }

    #[test]
    fn a_pod_without_an_entry_hears_of_it() {
        let reason = waiting(&pod(), &Standing::default(), None);
        assert!(reason.starts_with("no SPIRE entry for pod shop/db-0"), "{reason}");
    }

    #[test]
    fn each_absence_has_its_own_sentence() {
        let sentence = |reason| for_content(&key(), &absent(reason));
        let missing = sentence(Reason::NotRegistered);
        assert!(missing.contains("no secret named billing in namespace default"), "{missing}");
        assert!(missing.contains("-- safe -w billing -n default -s -"), "{missing}");
        assert!(sentence(Reason::Deleted).contains("was deleted at 1970-01-01T00:00:00Z"));
        assert!(sentence(Reason::Expired).contains("expired at 1970"));
        assert!(sentence(Reason::NotYetValid).contains("not valid before 1970"));
        assert!(sentence(Reason::Unreadable).contains("cannot read"));
    }

    #[test]
    fn an_unreachable_safe_is_named_with_the_time_and_the_reason() {
        let feed = Feed {
            trouble: Some(Trouble {
                since: SystemTime::UNIX_EPOCH + Duration::from_millis(1500),
                reason: "connection refused".into(),
            }),
            ..absent(Reason::NotRegistered)
        };
        assert_eq!(
            for_content(&key(), &feed),
            "Safe is unreachable since 1970-01-01T00:00:01Z: connection refused"
        );
    }

    #[test]
    fn a_volume_in_order_has_no_condition() {
        assert_eq!(condition(&pod(), &Standing::default(), Some(&Feed::default()), None), None);
    }
}
