//! Whose secret a pod may see: the X509-SVID that SPIRE issues to the pod.

use std::{fmt, sync::Arc, time::SystemTime};

use spiffe::X509Svid;
use tokio::sync::watch;
use vsecm_node_agent_api::volume::PodRef;
use vsecm_safe_api::role::{IdPattern, NamePattern};

use crate::snapshot::SnapshotKey;

pub mod spire;

/// A pod's identity as it was issued.
pub struct Identity {
    /// Certificate and key.
    pub svid: Arc<X509Svid>,
    /// Whose secret it gives access to.
    pub key: SnapshotKey,
    /// When the certificate ends.
    pub expires: SystemTime,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("id", &self.svid.spiffe_id().to_string())
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// Whether a pod has an identity.
#[derive(Clone, Debug, Default)]
pub enum Issue {
    /// None yet.
    #[default]
    NotYet,
    /// This one. It stays until its end even while SPIRE cannot be asked.
    Issued(Arc<Identity>),
    /// SPIRE took it away: the pod is probably gone.
    Withdrawn,
}

/// What is known of a pod's identity.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Whether it has one.
    pub issue: Issue,
    /// Why nothing newer is known, if so, in words.
    pub trouble: Option<String>,
}

/// What is known of a pod before SPIRE is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// Nothing: that it has no identity means that it has none yet.
    Unknown,
    /// It had an identity in a predecessor's time: that it has none means that it was withdrawn.
    Issued,
}

/// Who issues identities to pods.
pub trait PodIdentity: Send + Sync {
    /// Follows the pod's identity until the receiver is dropped.
    fn follow(&self, pod: &PodRef, past: Past) -> watch::Receiver<Standing>;
}

/// Why none of the identities that SPIRE offers is the pod's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChoiceError {
    /// Nothing tells which of several is meant.
    #[error(
        "{} identities fit the pod ({}); exactly one registration entry must match the workload pattern",
        ids.len(),
        ids.join(", ")
    )]
    Ambiguous {
        /// The SPIFFE IDs.
        ids: Vec<String>,
    },
}

/// Chooses a pod's identity among those that SPIRE offers: never by their order, which is random.
#[derive(Clone, Debug)]
pub struct Chooser {
    /// The trust domain.
    pub trust_domain: String,
    /// Safe's own pattern: Safe is no workload.
    pub safe: IdPattern,
    /// The workloads' pattern.
    pub workload: IdPattern,
    /// Yields name and namespace.
    pub name: NamePattern,
}

impl Chooser {
    /// The key that `id` stands for, if it is an identity of `pod` as the kubelet named it.
    pub fn key(&self, pod: &PodRef, id: &str) -> Option<SnapshotKey> {
        let domain = format!("spiffe://{}/", self.trust_domain);
        let path = id.strip_prefix(&domain)?;
        if self.safe.matches(id) || !self.workload.matches(id) {
            return None;
        }
        let secret = self.name.key(id)?;
        let agrees = |mark: &str, name: &str| {
            segment_after(path, mark).is_none_or(|segment| segment == name)
        };
        let is_the_pods = secret.namespace.as_str() == pod.namespace.as_str()
            && agrees("sa", pod.service_account.as_str())
            && agrees("n", pod.name.as_str());
        is_the_pods.then(|| SnapshotKey { trust_domain: self.trust_domain.clone(), secret })
    }

    /// The one of `offered` that is the pod's.
    ///
    /// # Errors
    /// [`ChoiceError::Ambiguous`].
    pub fn choose<'a, T>(
        &self,
        pod: &PodRef,
        offered: &'a [T],
        id: impl Fn(&T) -> String,
    ) -> Result<Option<(&'a T, SnapshotKey)>, ChoiceError> {
        let mut fitting: Vec<_> =
            offered.iter().filter_map(|offer| Some((offer, self.key(pod, &id(offer))?))).collect();
        if fitting.len() > 1 {
            let ids = fitting.iter().map(|(offer, _key)| id(offer)).collect();
            return Err(ChoiceError::Ambiguous { ids });
        }
        Ok(fitting.pop())
    }
}

/// The segment after the last `mark` that stands where marks stand: at every second place, from
/// the right, of VSecM's form `workload/W/ns/N/sa/S/n/POD`. `None` for another form.
fn segment_after<'a>(path: &'a str, mark: &str) -> Option<&'a str> {
    let segments: Vec<&str> = path.split('/').collect();
    segments.rchunks_exact(2).find_map(|pair| match pair {
        [name, value] if *name == mark => Some(*value),
        _ => None,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{collections::HashMap, sync::Mutex};

    use vsecm_node_agent_api::volume::PodUid;
    use vsecm_safe_api::role::{
        DEFAULT_NAME_PATTERN, DEFAULT_SAFE_PATTERN, DEFAULT_WORKLOAD_PATTERN, SAFE_PATTERN,
        WORKLOAD_PATTERN,
    };

    use super::*;

    /// Identities by hand.
    #[derive(Default)]
    pub(crate) struct ByHand {
        standings: Mutex<HashMap<PodUid, watch::Sender<Standing>>>,
        pasts: Mutex<HashMap<PodUid, Past>>,
    }

    impl ByHand {
        pub(crate) fn set(&self, pod: &PodRef, issue: Issue, trouble: Option<&str>) {
            let trouble = trouble.map(str::to_owned);
            self.sender(pod).send_replace(Standing { issue, trouble });
        }

        /// What SPIRE's follower was told of the pod.
        pub(crate) fn past(&self, pod: &PodRef) -> Option<Past> {
            self.pasts.lock().unwrap().get(&pod.uid).copied()
        }

        fn sender(&self, pod: &PodRef) -> watch::Sender<Standing> {
            let mut all = self.standings.lock().unwrap();
            all.entry(pod.uid.clone()).or_default().clone()
        }
    }

    impl PodIdentity for ByHand {
        fn follow(&self, pod: &PodRef, past: Past) -> watch::Receiver<Standing> {
            self.pasts.lock().unwrap().insert(pod.uid.clone(), past);
            self.sender(pod).subscribe()
        }
    }

    /// An identity of the pod, as SPIRE would issue it.
    pub(crate) fn issued(pod: &PodRef, workload: &str) -> Issue {
        let id = format!(
            "spiffe://vsecm.com/workload/{workload}/ns/{}/sa/{}/n/{}",
            pod.namespace, pod.service_account, pod.name
        );
        let mut params = rcgen::CertificateParams::default();
        let uri = rcgen::string::Ia5String::try_from(id.clone()).unwrap();
        params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
        params.is_ca = rcgen::IsCa::ExplicitNoCa;
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let svid = X509Svid::parse_from_der(certificate.der(), &key.serialize_der()).unwrap();
        Issue::Issued(Arc::new(Identity {
            key: chooser().key(pod, &id).unwrap(),
            svid: Arc::new(svid),
            expires: SystemTime::now() + std::time::Duration::from_hours(1),
        }))
    }

    pub(crate) fn chooser() -> Chooser {
        let id = |variable, text| IdPattern::parse(variable, text, "vsecm.com").unwrap();
        Chooser {
            trust_domain: "vsecm.com".into(),
            safe: id(SAFE_PATTERN, DEFAULT_SAFE_PATTERN),
            workload: id(WORKLOAD_PATTERN, DEFAULT_WORKLOAD_PATTERN),
            name: NamePattern::parse(DEFAULT_NAME_PATTERN, "vsecm.com").unwrap(),
        }
    }

    pub(crate) fn pod() -> PodRef {
        PodRef {
            namespace: "shop".parse().unwrap(),
            name: "db-0".parse().unwrap(),
            uid: "0123".parse().unwrap(),
            service_account: "db".parse().unwrap(),
        }
    }

    fn choose(offered: &[&str]) -> Result<Option<String>, ChoiceError> {
        let id = |id: &&str| format!("spiffe://vsecm.com/{id}");
        let found = chooser().choose(&pod(), offered, id)?.map(|(_id, key)| key.secret.to_string());
        Ok(found)
    }

    const OWN: &str = "workload/billing/ns/shop/sa/db/n/db-0";

    #[test]
    fn the_pods_own_identity_is_found_at_any_place() {
        let offered = ["ns/shop/sa/db", OWN, "workload/x/ns/other/sa/db/n/db-0"];
        assert_eq!(choose(&offered), Ok(Some("shop/billing".into())));
    }

    #[test]
    fn an_identity_that_differs_from_what_the_kubelet_said_is_not_the_pods() {
        for id in [
            "workload/billing/ns/other/sa/db/n/db-0",
            "workload/billing/ns/shop/sa/other/n/db-0",
            "workload/billing/ns/shop/sa/db/n/db-1",
            "workload/vsecm-safe/ns/vsecm-system/sa/vsecm-safe/n/db-0",
            "vsecm-node-agent",
        ] {
            assert_eq!(choose(&[id]), Ok(None), "{id}");
        }
        assert_eq!(choose(&[]), Ok(None));
    }

    #[test]
    fn a_pod_or_workload_named_like_a_mark_confuses_nobody() {
        let mut pod = pod();
        pod.name = "sa".parse().unwrap();
        pod.service_account = "n".parse().unwrap();
        let id = "spiffe://vsecm.com/workload/ns/ns/shop/sa/n/n/sa";
        assert!(chooser().key(&pod, id).is_some());
    }

    #[test]
    fn two_identities_that_fit_are_refused_by_name() {
        let refused = choose(&[OWN, "workload/other/ns/shop/sa/db/n/db-0"]).unwrap_err();
        assert!(refused.to_string().contains("workload/other"), "{refused}");
    }
}
