//! Whether the `CSIDriver` object makes the kubelet's word about pods believable ([I8]).
//!
//! The kubelet merges pod information over what a pod's author wrote only if the object is there
//! and wants it. Without it any pod could claim to be another one.

use k8s_openapi::api::storage::v1::CSIDriver;
use kube::Api;
use tokio::sync::watch;
use tracing::{debug, info, warn};
use vsecm_safe_api::client::chain;

use super::follow;

/// What is known of the `CSIDriver` object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// It is as it must be, or is not watched.
    Good,
    /// It could not be asked for since the start.
    Unknown(String),
    /// It is not as it must be.
    Unfit(Unfit),
}

/// What is wrong with the `CSIDriver` object.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unfit {
    /// There is none.
    #[error("there is no CSIDriver object {name}")]
    Missing {
        /// The driver's name.
        name: String,
    },
    /// The kubelet would not say whose volume it is.
    #[error("the CSIDriver object {name} does not have podInfoOnMount: true")]
    NoPodInfo {
        /// The driver's name.
        name: String,
    },
    /// Persistent volumes carry no pod's identity.
    #[error(
        "the CSIDriver object {name} must have volumeLifecycleModes [Ephemeral], not [{}]",
        modes.join(", ")
    )]
    Lifecycle {
        /// The driver's name.
        name: String,
        /// What it has.
        modes: Vec<String>,
    },
}

impl Driver {
    /// Why nothing may be published now, if so.
    pub fn refusal(&self) -> Option<String> {
        match self {
            Self::Good => None,
            Self::Unknown(reason) => Some(format!(
                "the CSIDriver object is not known yet, so no new volume is published: {reason}"
            )),
            Self::Unfit(unfit) => Some(format!(
                "{unfit}: what the kubelet says about pods cannot be believed, so no new volume is \
                 published until the object is as the Helm chart makes it"
            )),
        }
    }

    /// A receiver for where it is not watched.
    pub fn unwatched() -> watch::Receiver<Self> {
        watch::channel(Self::Good).1
    }
}

fn judge(name: &str, object: Option<&CSIDriver>) -> Driver {
    let name = name.to_owned();
    let Some(object) = object else {
        return Driver::Unfit(Unfit::Missing { name });
    };
    if object.spec.pod_info_on_mount != Some(true) {
        return Driver::Unfit(Unfit::NoPodInfo { name });
    }
    let modes = object.spec.volume_lifecycle_modes.clone().unwrap_or_default();
    if modes != ["Ephemeral"] {
        return Driver::Unfit(Unfit::Lifecycle { name, modes });
    }
    Driver::Good
}

/// What the object's news make of what is known: an API server that cannot be asked changes
/// nothing but the reason why nothing is known.
fn next(name: &str, known: &Driver, heard: &follow::Heard<CSIDriver>) -> Driver {
    match (heard, known) {
        (follow::Heard::There(object), _) => judge(name, Some(object)),
        (follow::Heard::Missing, _) => judge(name, None),
        (follow::Heard::Nothing(reason), Driver::Unknown(_)) => Driver::Unknown(chain(reason)),
        (follow::Heard::Nothing(_), known) => known.clone(),
    }
}

/// Watches the `CSIDriver` object of this name, for as long as somebody wants to know.
pub fn watched(name: String) -> watch::Receiver<Driver> {
    let asking = Driver::Unknown("Kubernetes' API server has not answered yet".to_owned());
    let (sender, receiver) = watch::channel(asking);
    tokio::spawn(async move {
        let hear = |heard: follow::Heard<CSIDriver>| {
            if let follow::Heard::Nothing(reason) = &heard {
                debug!(reason = chain(reason), "the CSIDriver object cannot be asked for");
            }
            sender.send_if_modified(|known| {
                let next = next(&name, known, &heard);
                let is_news = *known != next;
                if is_news {
                    match next.refusal() {
                        None => info!(driver = name, "the CSIDriver object is as it must be"),
                        Some(refusal) => warn!(driver = name, reason = refusal, "no new volumes"),
                    }
                }
                *known = next;
                is_news
            });
        };
        tokio::select! {
            () = follow::follow(Api::all, &name, hear) => {}
            () = sender.closed() => {}
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::storage::v1::CSIDriverSpec;

    use super::{super::KubernetesError, *};

    const NAME: &str = "csi.vsecm.com";

    fn object(pod_info: Option<bool>, modes: &[&str]) -> CSIDriver {
        CSIDriver {
            spec: CSIDriverSpec {
                pod_info_on_mount: pod_info,
                volume_lifecycle_modes: Some(modes.iter().map(|&mode| mode.to_owned()).collect()),
                ..CSIDriverSpec::default()
            },
            ..CSIDriver::default()
        }
    }

    fn refusal(object: Option<&CSIDriver>) -> String {
        judge(NAME, object).refusal().unwrap()
    }

    #[test]
    fn only_an_ephemeral_driver_with_pod_information_is_good() {
        assert_eq!(judge(NAME, Some(&object(Some(true), &["Ephemeral"]))), Driver::Good);
        assert!(refusal(None).starts_with("there is no CSIDriver object csi.vsecm.com"));
        for pod_info in [None, Some(false)] {
            let refusal = refusal(Some(&object(pod_info, &["Ephemeral"])));
            assert!(refusal.contains("does not have podInfoOnMount: true"), "{refusal}");
        }
        for modes in [&[][..], &["Persistent"], &["Persistent", "Ephemeral"]] {
            let refusal = refusal(Some(&object(Some(true), modes)));
            assert!(refusal.contains(&format!("not [{}]", modes.join(", "))), "{refusal}");
        }
    }

    #[test]
    fn an_api_server_that_cannot_be_asked_changes_nothing_that_is_known() {
        let silent = follow::Heard::Nothing(KubernetesError::Silent);
        assert_eq!(next(NAME, &Driver::Good, &silent), Driver::Good);
        let missing = judge(NAME, None);
        assert_eq!(next(NAME, &missing, &silent), missing);
        let unknown = next(NAME, &Driver::Unknown("asking".into()), &silent);
        let refusal = unknown.refusal().unwrap();
        assert!(refusal.contains("not known yet"), "{refusal}");
        assert!(refusal.contains("did not answer within 10 seconds"), "{refusal}");
        let good = follow::Heard::There(object(Some(true), &["Ephemeral"]));
        assert_eq!(next(NAME, &unknown, &good), Driver::Good);
        assert_eq!(next(NAME, &Driver::Good, &follow::Heard::Missing), missing);
    }
}
