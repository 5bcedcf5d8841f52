//! Pods of a playground.

use std::{sync::Arc, time::Duration};

use super::{Playground, PlaygroundError, identities, random};
use crate::kubelet::{Pod, spec::PodSpec};

impl Playground {
    /// Creates a pod: SPIRE gets its entry, the kubelet begins to publish its volume. Returns at
    /// once; see [`Pod::ready`] and [`Pod::waits`].
    ///
    /// # Errors
    /// [`PlaygroundError::Name`], [`PlaygroundError::Pod`], [`PlaygroundError::Authority`].
    pub fn create_pod(&self, spec: PodSpec) -> Result<Arc<Pod>, PlaygroundError> {
        let layout = &self.setup.layout;
        let uid = random::uid()?;
        identities::admit(self, &spec, &uid)?;
        let link = layout.pod_link(&spec.namespace, &spec.name);
        let identity = layout.pod_socket(&uid);
        let admitted = self.kubelet.admit(spec, uid.clone(), identity.clone(), &link);
        if admitted.is_err() {
            self.authority.remove_entry(&identities::entry_id(&uid));
            self.authority.close(&identity);
        }
        Ok(admitted?)
    }

    /// Finds a pod.
    ///
    /// # Errors
    /// [`PlaygroundError::Pod`].
    pub fn pod(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, PlaygroundError> {
        Ok(self.kubelet.find(namespace, name)?)
    }

    /// All pods.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.kubelet.list()
    }

    /// Deletes a pod: SPIRE withdraws its identity, the kubelet awaits a call in flight and then
    /// unpublishes.
    ///
    /// # Errors
    /// [`PlaygroundError::Pod`] when that takes longer than `within`.
    pub async fn delete_pod(&self, pod: &Pod, within: Duration) -> Result<(), PlaygroundError> {
        self.withdraw_identity(pod);
        self.authority.close(pod.identity_socket());
        let spec = pod.spec();
        let link = self.setup.layout.pod_link(&spec.namespace, &spec.name);
        Ok(self.kubelet.evict(pod, &link, within).await?)
    }

    /// Takes the pod's identity away; whether it had one.
    pub fn withdraw_identity(&self, pod: &Pod) -> bool {
        let entry = identities::entry_id(pod.uid());
        self.authority.remove_entry(&entry)
    }

    /// Gives the pod its identity (again).
    ///
    /// # Errors
    /// [`PlaygroundError::Authority`].
    pub fn grant_identity(&self, pod: &Pod) -> Result<(), PlaygroundError> {
        identities::grant(self, pod.spec(), pod.uid())
    }
}
