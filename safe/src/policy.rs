//! Who may do what; pure ([I8]).

use vsecm_safe_api::{
    name::{Audience, SecretKey},
    role::Role,
};

/// What a caller asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The own secret, once.
    Fetch,
    /// The own secret, and whatever becomes of it.
    Watch,
    /// To say what a pod shows.
    Acknowledge,
    /// To register a value.
    Put,
    /// To delete a value.
    Delete,
    /// To see what is registered.
    List,
    /// To see which pod has what, and which waits.
    Deliveries,
    /// To say which pods are on a node.
    Report,
}

impl Action {
    /// The word in logs and audit lines.
    pub fn word(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Watch => "watch",
            Self::Acknowledge => "acknowledge",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::List => "list",
            Self::Deliveries => "deliveries",
            Self::Report => "report",
        }
    }
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Allowed, for the secret under the caller's own key and no other.
    Own(&'a SecretKey),
    /// Allowed for any key, if the second proof holds: an SVID alone never grants it.
    WithProof,
    /// Allowed: it is told, and tells nothing.
    Told,
    /// Refused.
    Refused(&'static str),
}

/// Decides by the caller's whole identity; a workload has no way to name another key.
pub fn decide(role: &Role, action: Action) -> Decision<'_> {
    match (role, action) {
        // k8s: and raw: names reach no workload, whatever a pattern may yield
        (Role::Workload(key), Action::Fetch | Action::Watch | Action::Acknowledge) => {
            match key.name.audience() {
                Audience::Workload => Decision::Own(key),
                Audience::Kubernetes | Audience::Raw => {
                    Decision::Refused("secrets with a prefix reach no workload")
                }
            }
        }
        (Role::Sentinel, Action::Put | Action::Delete | Action::List | Action::Deliveries) => {
            Decision::WithProof
        }
        (Role::NodeAgent, Action::Report) => Decision::Told,
        (Role::Workload(_), Action::Report) => {
            Decision::Refused("only node-agent reports which pods wait")
        }
        (Role::Workload(_), _) => Decision::Refused("a workload may not administer secrets"),
        (Role::Sentinel, _) => Decision::Refused("sentinel may replace secrets, never read one"),
        (Role::NodeAgent, _) => {
            Decision::Refused("node-agent reports under its own identity, and reads nothing")
        }
        (Role::Safe, _) => Decision::Refused("Safe has no business with itself"),
        (Role::Stranger, _) => {
            Decision::Refused("the SPIFFE ID fits neither the workloads' patterns nor sentinel's")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTIONS: [Action; 8] = [
        Action::Fetch,
        Action::Watch,
        Action::Acknowledge,
        Action::Put,
        Action::Delete,
        Action::List,
        Action::Deliveries,
        Action::Report,
    ];

    fn table(role: &Role) -> [char; 8] {
        ACTIONS.map(|action| match decide(role, action) {
            Decision::Own(key) => {
                assert!(matches!(role, Role::Workload(own) if own == key));
                'o'
            }
            Decision::WithProof => 'p',
            Decision::Told => 't',
            Decision::Refused(_) => '-',
        })
    }

    #[test]
    fn each_role_has_its_actions_and_no_other() {
        let workload = |name| Role::Workload(SecretKey::parse("shop", name).unwrap());
        let row = |text: &str| -> [char; 8] {
            let cells: Vec<char> = text.chars().collect();
            cells.try_into().unwrap()
        };
        assert_eq!(table(&workload("db")), row("ooo-----"));
        assert_eq!(table(&workload("k8s:db")), row("--------"));
        assert_eq!(table(&workload("raw:db")), row("--------"));
        assert_eq!(table(&Role::Sentinel), row("---pppp-"));
        assert_eq!(table(&Role::NodeAgent), row("-------t"));
        assert_eq!(table(&Role::Safe), row("--------"));
        assert_eq!(table(&Role::Stranger), row("--------"));
    }
}
