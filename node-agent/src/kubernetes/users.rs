//! Who would miss this driver: asked before it is uninstalled.

use std::fmt;

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ApiResource, ListParams, Object},
};
use serde::Deserialize;

use super::{KubernetesError, answer, client};

/// Pods of one answer.
const PAGE: u32 = 500;

/// How many pods are named.
const NAMED: usize = 10;

#[derive(Clone, Debug, Default, Deserialize)]
struct Spec {
    #[serde(default)]
    volumes: Vec<Volume>,
}

#[derive(Clone, Debug, Deserialize)]
struct Volume {
    csi: Option<Csi>,
}

#[derive(Clone, Debug, Deserialize)]
struct Csi {
    driver: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Status {
    phase: Option<String>,
}

/// A pod as far as it matters here.
type User = Object<Spec, Status>;

/// Pods that have volumes of a driver.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Users {
    driver: String,
    named: Vec<String>,
    count: usize,
}

impl Users {
    /// Asks for all pods of the cluster.
    ///
    /// # Errors
    /// [`KubernetesError`]: then it is not known whether there are any.
    pub async fn of(driver: &str) -> Result<Self, KubernetesError> {
        let pods: Api<User> = Api::all_with(client().await?, &ApiResource::erase::<Pod>(&()));
        let mut users = Self { driver: driver.to_owned(), ..Self::default() };
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = answer(pods.list(&params)).await?;
            for pod in &page.items {
                users.count(pod);
            }
            match page.metadata.continue_.as_deref() {
                None | Some("") => return Ok(users),
                Some(token) => params = params.continue_token(token),
            }
        }
    }

    fn count(&mut self, pod: &User) {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let has_ended = matches!(phase, Some("Succeeded" | "Failed"));
        let uses = |volume: &Volume| volume.csi.as_ref().is_some_and(|c| c.driver == self.driver);
        if has_ended || !pod.spec.volumes.iter().any(uses) {
            return;
        }
        self.count += 1;
        if self.named.len() < NAMED {
            let part = |text: &Option<String>| text.clone().unwrap_or_default();
            let (namespace, name) = (part(&pod.metadata.namespace), part(&pod.metadata.name));
            self.named.push(format!("{namespace}/{name}"));
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { driver, named, count } = self;
        if self.is_empty() {
            return write!(f, "no pod has volumes of {driver}");
        }
        let (pods, have) = if *count == 1 { ("pod", "has") } else { ("pods", "have") };
        write!(f, "{count} {pods} still {have} volumes of {driver}: {}", named.join(", "))?;
        if *count > named.len() {
            write!(f, " and {} more", count - named.len())?;
        }
        write!(
            f,
            ". Delete them, or what makes them, and uninstall again: without the driver a pod's \
             volumes can neither be mounted nor unmounted"
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, driver: &str, phase: &str) -> User {
        serde_json::from_value(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "namespace": "shop", "name": name },
            "spec": {
                "containers": [],
                "volumes": [{ "name": "a", "emptyDir": {} }, { "name": "b", "csi": { "driver": driver } }],
            },
            "status": { "phase": phase },
        }))
        .unwrap()
    }

    fn users(pods: &[User]) -> Users {
        let mut users = Users { driver: "csi.vsecm.com".into(), ..Users::default() };
        for pod in pods {
            users.count(pod);
        }
        users
    }

    #[test]
    fn pods_that_have_ended_or_use_another_driver_are_not_in_the_way() {
        let others = [
            pod("a", "csi.vsecm.com", "Succeeded"),
            pod("b", "csi.vsecm.com", "Failed"),
            pod("c", "csi.example.com", "Running"),
        ];
        let users = users(&others);
        assert!(users.is_empty());
        assert_eq!(users.to_string(), "no pod has volumes of csi.vsecm.com");
    }

    #[test]
    fn ten_are_named_and_the_rest_is_counted() {
        let pods: Vec<_> =
            (0..12).map(|n| pod(&format!("db-{n}"), "csi.vsecm.com", "Pending")).collect();
        let text = users(&pods).to_string();
        assert!(text.starts_with("12 pods still have volumes of csi.vsecm.com: shop/db-0, "));
        assert!(text.contains("shop/db-9 and 2 more. Delete them"), "{text}");
        let one = users(&pods[..1]).to_string();
        assert!(one.starts_with("1 pod still has volumes of csi.vsecm.com: shop/db-0. "), "{one}");
    }
}
