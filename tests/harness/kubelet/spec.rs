//! What a pod's author writes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use spiffe::{SpiffeId, SpiffeIdError};

use crate::component::TRUST_DOMAIN;

/// Whether SPIRE knows of the pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Registration {
    /// An entry is made when the pod is.
    #[default]
    AtCreation,
    /// None, until [`crate::Playground::grant_identity`].
    Missing,
}

/// A pod with one volume of ours.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodSpec {
    /// Its name.
    pub name: String,
    /// The workload it belongs to: the name of its secret.
    pub workload: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// `volumeAttributes`.
    pub attributes: BTreeMap<String, String>,
    /// `fsGroup`.
    pub fs_group: Option<u32>,
    /// Its entry.
    pub registration: Registration,
}

impl PodSpec {
    /// A pod of the workload of the same name, in the namespace `default`.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            workload: name.to_owned(),
            namespace: "default".to_owned(),
            service_account: "default".to_owned(),
            attributes: BTreeMap::new(),
            fs_group: None,
            registration: Registration::AtCreation,
        }
    }

    /// Of another workload.
    #[must_use]
    pub fn workload(mut self, workload: &str) -> Self {
        workload.clone_into(&mut self.workload);
        self
    }

    /// In another namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// With a volume attribute.
    #[must_use]
    pub fn attribute(mut self, key: &str, value: &str) -> Self {
        self.attributes.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With an `fsGroup`.
    #[must_use]
    pub fn fs_group(mut self, group: u32) -> Self {
        self.fs_group = Some(group);
        self
    }

    /// Without an entry in SPIRE.
    #[must_use]
    pub fn unregistered(mut self) -> Self {
        self.registration = Registration::Missing;
        self
    }

    /// Its identity, as the `ClusterSPIFFEID`'s template makes it.
    pub(crate) fn spiffe_id(&self) -> Result<SpiffeId, SpiffeIdError> {
        let Self { name, workload, namespace, service_account, .. } = self;
        SpiffeId::new(format!(
            "spiffe://{TRUST_DOMAIN}/workload/{workload}/ns/{namespace}/sa/{service_account}/n/{name}"
        ))
    }
}
