//! The start-up taint: pods that need this driver are scheduled here once it is registered.

use std::time::Duration;

use k8s_openapi::api::{core::v1::Node, storage::v1::CSINode};
use kube::{
    Api,
    api::{ApiResource, NotUsed, Object, Patch, PatchParams},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};
use vsecm_safe_api::client::chain;

use super::{KubernetesError, answer, client, follow};
use crate::backoff::Backoff;

/// Which taint goes, and when.
#[derive(Clone, Debug)]
pub struct StartupTaint {
    /// Its key.
    pub key: String,
    /// Of this node.
    pub node: String,
    /// Once this driver is registered.
    pub driver: String,
}

/// A node as far as it matters here: what is not known here is not to be lost.
#[derive(Clone, Debug, Default, Deserialize)]
struct Spec {
    #[serde(default)]
    taints: Vec<Value>,
}

type TaintedNode = Object<Spec, NotUsed>;

impl StartupTaint {
    /// Removes the taint whenever csi takes orders and the kubelet lists the driver: at every
    /// start, and at every registration after it.
    ///
    /// `CSINode` outlives a node's restart, so its word alone says nothing about this start.
    pub async fn remove_when_registered(self, mut csi: watch::Receiver<u64>) {
        let registered = watch::Sender::new(false);
        let mut registrations = registered.subscribe();
        let mut said = Once::default();
        let hear = |heard: follow::Heard<CSINode>| match heard {
            follow::Heard::There(node) => {
                registered.send_replace(lists(&node, &self.driver));
            }
            follow::Heard::Missing => {
                registered.send_replace(false);
            }
            follow::Heard::Nothing(reason) => {
                said.warn("whether the driver is registered cannot be asked for", chain(&reason));
            }
        };
        let remove = async {
            loop {
                if *csi.borrow_and_update() > 0 && *registrations.borrow_and_update() {
                    self.remove().await;
                }
                tokio::select! {
                    Ok(()) = csi.changed() => {}
                    Ok(()) = registrations.changed() => {}
                    else => return,
                }
            }
        };
        tokio::select! {
            () = follow::follow(Api::all, &self.node, hear) => {}
            () = remove => {}
        }
    }

    async fn remove(&self) {
        let mut said = Once::default();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            match self.try_to_remove().await {
                Ok(Removal::Done) => {
                    info!(node = self.node, taint = self.key, "the start-up taint is removed");
                    return;
                }
                Ok(Removal::NotThere) => return,
                Ok(Removal::Conflict) => {}
                Err(failure) => {
                    said.warn("the start-up taint is not removed yet", chain(&failure));
                }
            }
            sleep(backoff.pause()).await;
        }
    }

    async fn try_to_remove(&self) -> Result<Removal, KubernetesError> {
        let nodes: Api<TaintedNode> =
            Api::all_with(client().await?, &ApiResource::erase::<Node>(&()));
        let node = answer(nodes.get(&self.node)).await?;
        let Some(taints) = without(&node.spec.taints, &self.key) else {
            return Ok(Removal::NotThere);
        };
        // of exactly this version: nobody's change in between is undone
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": node.metadata.resource_version },
            "spec": { "taints": taints },
        }));
        let params = PatchParams::default();
        match answer(nodes.patch(&self.node, &params, &patch)).await {
            Ok(_node) => Ok(Removal::Done),
            Err(KubernetesError::Api(kube::Error::Api(status))) if status.is_conflict() => {
                Ok(Removal::Conflict)
            }
            Err(failure) => Err(failure),
        }
    }
}

/// What an API server refuses it refuses for as long as nobody mends its roles.
#[derive(Default)]
struct Once(String);

impl Once {
    fn warn(&mut self, what: &str, reason: String) {
        if self.0 != reason {
            warn!(reason, "{what}");
            self.0 = reason;
        }
    }
}

enum Removal {
    Done,
    NotThere,
    /// The node was changed meanwhile.
    Conflict,
}

/// Whether the kubelet has registered the driver.
fn lists(node: &CSINode, driver: &str) -> bool {
    node.spec.drivers.iter().any(|registered| registered.name == driver)
}

/// All taints but those of this key; `None` if there is none of it.
fn without<'a>(taints: &'a [Value], key: &str) -> Option<Vec<&'a Value>> {
    let others: Vec<_> = taints
        .iter()
        .filter(|taint| taint.get("key").and_then(Value::as_str) != Some(key))
        .collect();
    (others.len() < taints.len()).then_some(others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_one_taint_goes_and_others_stay_as_they_are() {
        let other = json!({ "key": "other", "effect": "NoExecute", "timeAdded": "t", "new": 1 });
        let ours = json!({ "key": "vsecm.com/agent-not-ready", "effect": "NoSchedule" });
        let taints = [other.clone(), ours];
        assert_eq!(without(&taints, "vsecm.com/agent-not-ready"), Some(vec![&other]));
        assert_eq!(without(&taints[..1], "vsecm.com/agent-not-ready"), None);
        assert_eq!(without(&[], "vsecm.com/agent-not-ready"), None);
    }
}
