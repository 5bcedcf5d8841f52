//! Why a pod waits, in words for `kubectl describe pod` ([I10]). Pure.

use std::time::{Duration, SystemTime};

use vsecm_node_agent_api::volume::PodRef;
use vsecm_safe_api::{
    name::{Namespace, SecretKey},
    state::{Absent, Reason as Absence},
};

use crate::{
    identity::{Issue, Standing},
    snapshot::{Content, Snapshot, SnapshotKey},
    wait::{Wait, moment},
    watch::{Feed, Trouble, TroubleKind},
};

/// What is waited for: for people, and for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) wait: Wait,
    pub(super) sentence: String,
}

impl Reason {
    pub(super) fn new(wait: Wait, sentence: impl Into<String>) -> Self {
        Self { wait, sentence: sentence.into() }
    }
}

/// How old Safe's word on what is shown is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    /// Safe stands by it.
    New,
    /// Safe confirmed it last at that time.
    Since(SystemTime),
    /// The same, and the pod has seen nothing else.
    BegunWith(SystemTime),
}

impl Age {
    /// Shorter outages are no more than a sentence about Safe.
    const STALE: Duration = Duration::from_mins(10);

    fn reason(self, now: SystemTime) -> Option<Reason> {
        let sentence = match self {
            Self::BegunWith(since) => format!(
                "the pod was started from the snapshot that this node held, which Safe confirmed last at {}",
                moment(since)
            ),
            Self::Since(since) if now.duration_since(since).is_ok_and(|age| age > Self::STALE) => {
                format!("Safe confirmed what the pod has last at {}", moment(since))
            }
            Self::Since(_) | Self::New => return None,
        };
        Some(Reason::new(Wait::Unconfirmed, sentence))
    }
}

fn at(absent: &Absent) -> String {
    absent.at.map(moment).map_or_else(String::new, |time| format!(" at {time}"))
}

/// Why the pod has no content yet. `sentinel` is the namespace where it is registered.
pub(super) fn waiting(
    pod: &PodRef,
    standing: &Standing,
    feed: Option<(&SnapshotKey, &Feed)>,
    sentinel: &Namespace,
) -> Reason {
    match (&standing.issue, feed) {
        (Issue::Issued(_), _) if standing.is_contested => for_identity(pod, standing),
        (Issue::Issued(identity), Some((key, feed))) => {
            let now = SystemTime::now();
            if identity.expires <= now {
                return expired(pod, standing, identity.expires);
            }
            for_content(key, feed, sentinel)
        }
        (Issue::Withdrawn, _) => Reason::new(Wait::Withdrawn, withdrawn(pod)),
        _ => for_identity(pod, standing),
    }
}

/// The pod lost its identity.
pub(super) fn withdrawn(pod: &PodRef) -> String {
    let PodRef { namespace, name, .. } = pod;
    format!("SPIRE has withdrawn the identity of pod {namespace}/{name}")
}

fn expired(pod: &PodRef, standing: &Standing, at: SystemTime) -> Reason {
    let PodRef { namespace, name, .. } = pod;
    let at = moment(at);
    let why = match &standing.trouble {
        Some(trouble) => format!(": {trouble}"),
        None => "; its agent may be unable to reach SPIRE's server".to_owned(),
    };
    Reason::new(
        Wait::IdentityExpired,
        format!(
            "the identity of pod {namespace}/{name} ended at {at} and SPIRE has not renewed it{why}"
        ),
    )
}

fn for_identity(pod: &PodRef, standing: &Standing) -> Reason {
    let PodRef { namespace, name, service_account, .. } = pod;
    match &standing.trouble {
        Some(trouble) => Reason::new(
            trouble.wait(),
            format!("no identity for pod {namespace}/{name} from SPIRE: {trouble}"),
        ),
        None => Reason::new(
            Wait::NoEntry,
            format!(
                "no SPIRE entry for pod {namespace}/{name} (service account {service_account}) yet: \
                 it needs the label vsecm.com/workload, or a ClusterSPIFFEID that matches it"
            ),
        ),
    }
}

fn for_trouble(trouble: &Trouble) -> Reason {
    let Trouble { since, kind, reason } = trouble;
    let since = moment(*since);
    match kind {
        TroubleKind::Unreachable => Reason::new(
            Wait::SafeUnreachable,
            format!("Safe is unreachable since {since}: {reason}"),
        ),
        TroubleKind::Refused => Reason::new(
            Wait::Refused,
            format!(
                "Safe refuses the pod's identity since {since}, its audit log says why: {reason}"
            ),
        ),
        TroubleKind::Locked => Reason::new(
            Wait::SafeLocked,
            format!(
                "Safe is locked since {since}, an operator must give it its root key: {reason}"
            ),
        ),
        TroubleKind::NoOwnIdentity => Reason::new(Wait::NoOwnIdentity, reason.clone()),
        TroubleKind::IdentityExpired => Reason::new(
            Wait::IdentityExpired,
            format!("SPIRE has not renewed the pod's identity since {since}: {reason}"),
        ),
    }
}

fn for_content(key: &SnapshotKey, feed: &Feed, sentinel: &Namespace) -> Reason {
    let (namespace, name) = (&key.secret.namespace, &key.secret.name);
    if let Some(trouble) = &feed.trouble {
        return for_trouble(trouble);
    }
    let command = format!(
        "kubectl exec -i -n {sentinel} deploy/vsecm-sentinel -- safe -w {name} -n {namespace} -s - \
         (the value on stdin)"
    );
    let secret = format!("the secret {name} in namespace {namespace}");
    let Some(absent) = &feed.absent else {
        return Reason::new(Wait::Asking, format!("waiting for Safe's answer about {secret}"));
    };
    let at = at(absent);
    match absent.reason {
        Absence::NotRegistered => Reason::new(
            Wait::NotRegistered,
            format!(
                "no secret named {name} in namespace {namespace} yet, register it with: {command}"
            ),
        ),
        Absence::Deleted => Reason::new(
            Wait::Deleted,
            format!("{secret} was deleted{at}, register it again with: {command}"),
        ),
        Absence::Expired => Reason::new(
            Wait::Expired,
            format!("{secret} expired{at}, register a new value with: {command}"),
        ),
        Absence::NotYetValid => {
            let time = absent.at.map_or_else(|| "a later time".to_owned(), moment);
            Reason::new(Wait::NotYetValid, format!("{secret} is not valid before {time}"))
        }
        Absence::Unreadable => Reason::new(
            Wait::Unreadable,
            format!("Safe has {secret} but cannot read its record; its log says why"),
        ),
    }
}

/// Keys that a sentence names at most.
const NAMED: usize = 5;

/// The keys of items that the secret does not have.
fn keys(missing: &[String]) -> String {
    let named: Vec<_> = missing.iter().take(NAMED).map(|key| format!("{key:?}")).collect();
    let noun = if missing.len() == 1 { "key" } else { "keys" };
    let more = match missing.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{noun} {}{more}", named.join(", "))
}

/// Why a secret that is there is not enough.
pub(super) fn without_keys(snapshot: &Snapshot, missing: &[String]) -> Reason {
    let SecretKey { namespace, name } = &snapshot.key().secret;
    let kind = match snapshot.content() {
        Content::Document { .. } if snapshot.members().is_empty() => {
            ": its value is one document without keys (the item key . is the whole document)"
        }
        _ => "",
    };
    Reason::new(
        Wait::NoKey,
        format!(
            "the secret {name} in namespace {namespace} has no {} that the volume's items name{kind}; \
             register a value that has what is missing, or set the volume attribute optional to \"true\"",
            keys(missing)
        ),
    )
}

/// What an operator should know of a volume that is there: it is not fresh.
pub(super) fn condition(
    pod: &PodRef,
    standing: &Standing,
    feed: Option<&Feed>,
    missing: &[String],
    swap: Option<&str>,
    age: Age,
) -> Vec<Reason> {
    let mut parts = Vec::new();
    match (&standing.issue, &standing.trouble) {
        (Issue::Withdrawn, _) => {
            let sentence = format!("{}; it gets no updates", withdrawn(pod));
            parts.push(Reason::new(Wait::Withdrawn, sentence));
        }
        (_, Some(trouble)) => parts.push(Reason::new(trouble.wait(), format!("SPIRE: {trouble}"))),
        _ => {}
    }
    parts.extend(feed.and_then(|feed| feed.trouble.as_ref()).map(for_trouble));
    if let Some(absent) = feed.and_then(|feed| feed.absent.as_ref()) {
        let wait = match absent.reason {
            Absence::NotRegistered => Wait::NotRegistered,
            Absence::Deleted => Wait::Deleted,
            Absence::Expired => Wait::Expired,
            Absence::NotYetValid => Wait::NotYetValid,
            Absence::Unreadable => Wait::Unreadable,
        };
        parts.push(Reason::new(wait, format!("Safe has no content now ({:?})", absent.reason)));
    }
    if !missing.is_empty() {
        let sentence = format!(
            "the secret has no {} any more that the volume's items name: what they showed is gone",
            keys(missing)
        );
        parts.push(Reason::new(Wait::NoKey, sentence));
    }
    parts.extend(age.reason(SystemTime::now()));
    if let Some(swap) = swap {
        parts.push(Reason::new(Wait::Csi, format!("an update waits: {swap}")));
    }
    parts
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use time::OffsetDateTime;
    use vsecm_safe_api::position::{Lineage, Revision};

    use super::*;
    use crate::{
        identity::{
            self, Identity,
            tests::{issued, pod},
        },
        snapshot::tests::{document, key},
    };

    fn sentinel() -> Namespace {
        "custody".parse().unwrap()
    }

    fn absent(reason: Absence) -> Feed {
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

    fn troubled(kind: TroubleKind, reason: &str) -> Feed {
        let since = SystemTime::UNIX_EPOCH + Duration::from_millis(1500);
        let trouble = Trouble { since, kind, reason: reason.into() };
        Feed { trouble: Some(trouble), ..absent(Absence::NotRegistered) }
    }

    fn without_identity(trouble: Option<identity::Trouble>) -> Reason {
        let standing = Standing { trouble, ..Standing::default() };
        waiting(&pod(), &standing, None, &sentinel())
    }

    #[test]
    fn a_pod_without_an_entry_hears_of_it() {
        let reason = without_identity(None);
        assert_eq!(reason.wait, Wait::NoEntry);
        assert!(reason.sentence.starts_with("no SPIRE entry for pod shop/db-0"), "{reason:?}");
    }

    #[test]
    fn each_way_to_have_no_identity_has_its_own_sentence() {
        let since = SystemTime::UNIX_EPOCH;
        let reason = String::from("said");
        for (trouble, wait, part) in [
            (
                identity::Trouble::Asking { since },
                Wait::SpireSilent,
                "has not answered since 1970-01-01T00:00:00Z",
            ),
            (
                identity::Trouble::Ambiguous {
                    ids: vec!["spiffe://a".into(), "spiffe://b".into()],
                },
                Wait::AmbiguousIdentity,
                "2 identities fit the pod (spiffe://a, spiffe://b)",
            ),
            (
                identity::Trouble::Unreachable { since, reason: "no such file".into() },
                Wait::SpireUnreachable,
                "cannot be reached since 1970-01-01T00:00:00Z: no such file",
            ),
            (
                identity::Trouble::NoOwnIdentity { reason: reason.clone() },
                Wait::NoOwnIdentity,
                "this node agent has no identity of its own from SPIRE yet",
            ),
            (
                identity::Trouble::NoDelegate { reason },
                Wait::NoDelegate,
                "not configured as an authorized delegate",
            ),
            (identity::Trouble::Unreadable, Wait::UnreadableIdentity, "is not understood"),
        ] {
            let reason = without_identity(Some(trouble));
            assert_eq!(reason.wait, wait);
            let sentence = reason.sentence;
            assert!(sentence.starts_with("no identity for pod shop/db-0 from SPIRE: "));
            assert!(sentence.contains(part), "{sentence}");
        }
    }

    #[test]
    fn an_identity_that_ended_is_said_with_its_time() {
        let Issue::Issued(identity) = issued(&pod(), "billing") else {
            panic!("an identity is issued");
        };
        let ended = Identity {
            svid: Arc::clone(&identity.svid),
            key: identity.key.clone(),
            expires: SystemTime::UNIX_EPOCH,
        };
        let standing = Standing { issue: Issue::Issued(Arc::new(ended)), ..Standing::default() };
        let feed = absent(Absence::NotRegistered);
        let reason = waiting(&pod(), &standing, Some((&key(), &feed)), &sentinel());
        assert_eq!(reason.wait, Wait::IdentityExpired);
        let sentence = reason.sentence;
        assert!(sentence.contains("ended at 1970-01-01T00:00:00Z"), "{sentence}");
    }

    #[test]
    fn each_absence_has_its_own_sentence() {
        let sentence = |absence, wait| {
            let reason = for_content(&key(), &absent(absence), &sentinel());
            assert_eq!(reason.wait, wait);
            reason.sentence
        };
        let missing = sentence(Absence::NotRegistered, Wait::NotRegistered);
        assert!(missing.contains("no secret named billing in namespace default"), "{missing}");
        let command =
            "kubectl exec -i -n custody deploy/vsecm-sentinel -- safe -w billing -n default -s -";
        assert!(missing.contains(command), "{missing}");
        let deleted = sentence(Absence::Deleted, Wait::Deleted);
        assert!(deleted.contains("was deleted at 1970-01-01T00:00:00Z"), "{deleted}");
        assert!(sentence(Absence::Expired, Wait::Expired).contains("expired at 1970"));
        let early = sentence(Absence::NotYetValid, Wait::NotYetValid);
        assert!(early.contains("not valid before 1970"), "{early}");
        assert!(sentence(Absence::Unreadable, Wait::Unreadable).contains("cannot read"));
        let asking = for_content(&key(), &Feed::default(), &sentinel());
        assert_eq!(asking.wait, Wait::Asking);
    }

    #[test]
    fn each_trouble_with_safe_has_its_own_sentence() {
        for (kind, wait, sentence) in [
            (
                TroubleKind::Unreachable,
                Wait::SafeUnreachable,
                "Safe is unreachable since 1970-01-01T00:00:01Z: said",
            ),
            (
                TroubleKind::Refused,
                Wait::Refused,
                "Safe refuses the pod's identity since 1970-01-01T00:00:01Z, its audit log says why: said",
            ),
            (
                TroubleKind::Locked,
                Wait::SafeLocked,
                "Safe is locked since 1970-01-01T00:00:01Z, an operator must give it its root key: said",
            ),
            (TroubleKind::NoOwnIdentity, Wait::NoOwnIdentity, "said"),
            (
                TroubleKind::IdentityExpired,
                Wait::IdentityExpired,
                "SPIRE has not renewed the pod's identity since 1970-01-01T00:00:01Z: said",
            ),
        ] {
            let reason = for_content(&key(), &troubled(kind, "said"), &sentinel());
            assert_eq!((reason.wait, reason.sentence.as_str()), (wait, sentence));
        }
    }

    #[test]
    fn a_volume_in_order_has_no_condition() {
        let (standing, feed) = (Standing::default(), Feed::default());
        assert!(condition(&pod(), &standing, Some(&feed), &[], None, Age::New).is_empty());
    }

    #[test]
    fn missing_keys_are_named_and_not_too_many_of_them() {
        let missing: Vec<_> = (0..7).map(|n| format!("k{n}")).collect();
        let reason = without_keys(&document(1, "{\"a\":1}"), &missing[..1]);
        assert_eq!(reason.wait, Wait::NoKey);
        let said = "the secret billing in namespace default has no key \"k0\" that the volume's items name; ";
        assert!(reason.sentence.starts_with(said), "{reason:?}");
        let reason = without_keys(&document(1, "plain"), &missing);
        let said = "no keys \"k0\", \"k1\", \"k2\", \"k3\", \"k4\" and 2 more that";
        assert!(reason.sentence.contains(said), "{reason:?}");
        assert!(reason.sentence.contains("one document without keys"), "{reason:?}");
        let parts = condition(&pod(), &Standing::default(), None, &missing[..1], None, Age::New);
        assert_eq!(parts.len(), 1);
        assert!(parts[0].sentence.contains("no key \"k0\" any more"), "{parts:?}");
    }

    #[test]
    fn a_word_of_safe_that_is_old_is_said_and_one_that_a_pod_began_with_at_once() {
        let at = |minutes| SystemTime::UNIX_EPOCH + Duration::from_mins(minutes);
        assert_eq!(Age::Since(at(1)).reason(at(11)), None);
        let old = Age::Since(at(1)).reason(at(12)).unwrap();
        assert_eq!(old.wait, Wait::Unconfirmed);
        assert!(old.sentence.ends_with("last at 1970-01-01T00:01:00Z"), "{old:?}");
        let begun = Age::BegunWith(at(1)).reason(at(1)).unwrap();
        assert!(begun.sentence.contains("started from the snapshot"), "{begun:?}");
    }
}
