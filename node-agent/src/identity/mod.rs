//! Whose secret a pod may see: the X509-SVID that SPIRE issues to the pod.

use std::{fmt, sync::Arc, time::SystemTime};

use spiffe::X509Svid;
use tokio::sync::watch;
use vsecm_node_agent_api::volume::PodRef;
use vsecm_safe_api::role::{IdPattern, NamePattern};

use crate::snapshot::SnapshotKey;

mod offer;
pub mod own;
pub mod spire;
mod trouble;

pub use self::trouble::Trouble;

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
    /// Why there is none, or nothing newer is known, if so.
    pub trouble: Option<Trouble>,
    /// Whether several identities fit, so that none may be acted upon: entries are made one after
    /// the other, and the first to come is not therefore the one that is meant. It stays so until
    /// SPIRE says otherwise, whatever the trouble is meanwhile.
    pub is_contested: bool,
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
    /// [`Trouble`]: there are some, yet not exactly one that is the pod's.
    pub fn choose<'a, T>(
        &self,
        pod: &PodRef,
        offered: &'a [T],
        id: impl Fn(&T) -> String,
    ) -> Result<Option<(&'a T, SnapshotKey)>, Trouble> {
        let mut fitting: Vec<_> =
            offered.iter().filter_map(|offer| Some((offer, self.key(pod, &id(offer))?))).collect();
        if fitting.len() > 1 {
            let ids = fitting.iter().map(|(offer, _key)| id(offer)).collect();
            return Err(Trouble::Ambiguous { ids });
        }
        let ids: Vec<_> = offered.iter().map(id).collect();
        match fitting.pop() {
            None if !ids.is_empty() => Err(self.why_none(pod, ids)),
            choice => Ok(choice),
        }
    }

    /// Why none of these is the pod's.
    fn why_none(&self, pod: &PodRef, ids: Vec<String>) -> Trouble {
        let foreign = ids.iter().find_map(|id| Some((id.clone(), self.difference(pod, id)?)));
        match foreign {
            Some((id, differs)) => Trouble::Foreign { id, differs },
            None => Trouble::NoWorkload { ids },
        }
    }

    /// In what a workload's identity differs from what the kubelet said of the pod.
    fn difference(&self, pod: &PodRef, id: &str) -> Option<String> {
        let Some(path) = id.strip_prefix(&format!("spiffe://{}/", self.trust_domain)) else {
            return Some(format!("it is not of the trust domain {}", self.trust_domain));
        };
        if self.safe.matches(id) {
            return Some("it is Safe's own identity".to_owned());
        }
        if !self.workload.matches(id) {
            return None;
        }
        let Some(secret) = self.name.key(id) else {
            return Some("the name pattern yields no name and namespace from it".to_owned());
        };
        let named = |mark: &str| segment_after(path, mark);
        let said = [
            ("namespace", Some(secret.namespace.as_str()), pod.namespace.as_str()),
            ("service account", named("sa"), pod.service_account.as_str()),
            ("pod", named("n"), pod.name.as_str()),
        ];
        said.into_iter().find_map(|(what, named, said)| {
            let named = named.filter(|named| *named != said)?;
            Some(format!("it names the {what} {named}, the kubelet says {said}"))
        })
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

    use spire_api::pb::spire::api::{
        agent::delegatedidentity::v1::X509svidWithKey, types::X509svid,
    };
    use vsecm_node_agent_api::volume::PodUid;
    use vsecm_safe_api::role::{
        DEFAULT_NAME_PATTERN, DEFAULT_SAFE_PATTERN, DEFAULT_WORKLOAD_PATTERN, SAFE_PATTERN,
        WORKLOAD_PATTERN,
    };

    use super::*;
    use crate::wait::Wait;

    /// Identities by hand.
    #[derive(Default)]
    pub(crate) struct ByHand {
        standings: Mutex<HashMap<PodUid, watch::Sender<Standing>>>,
        pasts: Mutex<HashMap<PodUid, Past>>,
    }

    impl ByHand {
        pub(crate) fn set(&self, pod: &PodRef, issue: Issue, trouble: Option<Trouble>) {
            let is_contested = matches!(trouble, Some(Trouble::Ambiguous { .. }));
            self.sender(pod).send_replace(Standing { issue, trouble, is_contested });
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

    /// The pod's SPIFFE ID as this workload, its certificate and its key.
    fn certified(pod: &PodRef, workload: &str) -> (String, Vec<u8>, Vec<u8>) {
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
        (id, certificate.der().to_vec(), key.serialize_der())
    }

    /// An identity of the pod, as SPIRE's agent would offer it.
    pub(crate) fn offered(pod: &PodRef, workload: &str) -> X509svidWithKey {
        let (_id, certificate, key) = certified(pod, workload);
        let svid = X509svid { cert_chain: vec![certificate.into()], ..X509svid::default() };
        X509svidWithKey { x509_svid: Some(svid), x509_svid_key: key.into() }
    }

    /// An identity of the pod, as SPIRE would issue it.
    pub(crate) fn issued(pod: &PodRef, workload: &str) -> Issue {
        let (id, certificate, key) = certified(pod, workload);
        let svid = X509Svid::parse_from_der(&certificate, &key).unwrap();
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

    fn choose(offered: &[&str]) -> Result<Option<String>, Trouble> {
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
    fn an_identity_that_differs_from_what_the_kubelet_said_is_refused_with_the_difference() {
        for (id, difference) in [
            (
                "workload/billing/ns/other/sa/db/n/db-0",
                "it names the namespace other, the kubelet says shop",
            ),
            (
                "workload/billing/ns/shop/sa/other/n/db-0",
                "it names the service account other, the kubelet says db",
            ),
            (
                "workload/billing/ns/shop/sa/db/n/db-1",
                "it names the pod db-1, the kubelet says db-0",
            ),
            (
                "workload/vsecm-safe/ns/vsecm-system/sa/vsecm-safe/n/db-0",
                "it is Safe's own identity",
            ),
        ] {
            let refused = choose(&[id]).unwrap_err();
            assert_eq!(refused.wait(), Wait::ForeignIdentity, "{id}");
            let sentence = refused.to_string();
            assert!(sentence.contains(id) && sentence.ends_with(difference), "{sentence}");
        }
        assert_eq!(choose(&[]), Ok(None));
    }

    #[test]
    fn an_identity_of_another_trust_domain_is_no_pods() {
        let id = |id: &&str| (*id).to_owned();
        let offered = ["spiffe://other.com/workload/billing/ns/shop/sa/db/n/db-0"];
        let refused = chooser().choose(&pod(), &offered, id).unwrap_err().to_string();
        assert!(refused.ends_with("it is not of the trust domain vsecm.com"), "{refused}");
    }

    #[test]
    fn an_identity_that_is_no_workloads_is_named_with_what_the_pod_needs() {
        let refused = choose(&["ns/shop/sa/db"]).unwrap_err();
        assert_eq!(refused.wait(), Wait::NoEntry);
        let sentence = refused.to_string();
        assert!(sentence.contains("spiffe://vsecm.com/ns/shop/sa/db"), "{sentence}");
        assert!(sentence.contains("vsecm.com/workload"), "{sentence}");
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
        assert_eq!(refused.wait(), Wait::AmbiguousIdentity);
        assert!(refused.to_string().contains("workload/other"), "{refused}");
    }
}
