//! Who gets which identity in a playground.

use std::time::Duration;

use spiffe::{SpiffeId, TrustDomain};

use super::{Playground, PlaygroundError};
use crate::{
    authority::{
        Authority, AuthorityError,
        ca::Lifetime,
        entry::{Entry, Selector},
    },
    component::{Component, TRUST_DOMAIN},
    kubelet::spec::{PodSpec, Registration},
    layout::Layout,
    users::{Users, ourselves},
};

impl Playground {
    /// What is attested of a component, which is also what its entry asks for: a delegate that
    /// states these gets the component's SVID.
    pub fn selectors_of(&self, component: Component) -> Vec<Selector> {
        selectors_of(component, self.setup.users)
    }

    /// The component's own identity; csi and keeper have none.
    pub fn identity_of(&self, component: Component) -> Option<SpiffeId> {
        let path = component.spiffe_path()?;
        SpiffeId::new(format!("spiffe://{TRUST_DOMAIN}{path}")).ok()
    }
}

fn selectors_of(component: Component, users: Users) -> Vec<Selector> {
    let uid = users.owner(component).uid;
    vec![Selector::new("dev", component.name()), Selector::new("unix", format!("uid:{uid}"))]
}

/// The components' entries and sockets.
pub(super) fn authority(
    layout: &Layout,
    users: Users,
    lifetime: Duration,
) -> Result<Authority, PlaygroundError> {
    let name = |source| PlaygroundError::Name { pod: TRUST_DOMAIN.to_owned(), source };
    let authority = Authority::start(TrustDomain::new(TRUST_DOMAIN).map_err(name)?)?;
    for component in Component::ALL {
        let Some(path) = component.spiffe_path() else {
            continue;
        };
        let id = SpiffeId::new(format!("spiffe://{TRUST_DOMAIN}{path}")).map_err(name)?;
        let selectors = selectors_of(component, users);
        let lifetime = Lifetime::Renewed(lifetime);
        let entry = Entry::new(id.clone(), selectors.clone(), lifetime);
        authority.put_entry(component.name(), entry)?;
        let owner = users.owner(component);
        let socket = layout.workload_socket(component);
        authority.serve_workload(&socket, owner, selectors.clone())?;
        if component == Component::NodeAgent {
            authority.serve_delegated(&layout.admin_socket(), owner, selectors, id)?;
        }
    }
    Ok(authority)
}

pub(super) fn entry_id(pod_uid: &str) -> String {
    format!("pod-{pod_uid}")
}

fn selector_of(pod_uid: &str) -> Selector {
    Selector::new("k8s", format!("pod-uid:{pod_uid}"))
}

/// What SPIRE and its controller manager do when a pod comes.
pub(super) fn admit(
    playground: &Playground,
    spec: &PodSpec,
    uid: &str,
) -> Result<(), PlaygroundError> {
    if spec.registration == Registration::AtCreation {
        grant(playground, spec, uid)?;
    }
    let attested = [
        selector_of(uid),
        Selector::new("k8s", format!("ns:{}", spec.namespace)),
        Selector::new("k8s", format!("sa:{}", spec.service_account)),
        Selector::new("k8s", format!("pod-name:{}", spec.name)),
    ];
    let socket = playground.setup.layout.pod_socket(uid);
    let authority = &playground.authority;
    let served = authority.serve_workload(&socket, ourselves(), attested);
    if served.is_err() {
        authority.remove_entry(&entry_id(uid));
    }
    Ok(served?)
}

/// The entry as the controller manager writes it: the pod's uid is its only selector.
pub(super) fn grant(
    playground: &Playground,
    spec: &PodSpec,
    uid: &str,
) -> Result<(), PlaygroundError> {
    let id = spec.spiffe_id().map_err(|source| PlaygroundError::Name {
        pod: format!("{}/{}", spec.namespace, spec.name),
        source,
    })?;
    let lifetime = Lifetime::Renewed(playground.setup.options.svid_lifetime);
    let entry = Entry::new(id, [selector_of(uid)], lifetime);
    let put: Result<(), AuthorityError> = playground.authority.put_entry(&entry_id(uid), entry);
    Ok(put?)
}
