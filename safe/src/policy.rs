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
    /// Refused.
    Refused(&'static str),
}

/// Decides by the caller's whole identity; a workload has no way to name another key.
pub fn decide(role: &Role, action: Action) -> Decision<'_> {
    let is_own = matches!(action, Action::Fetch | Action::Watch | Action::Acknowledge);
    match role {
        // k8s: and raw: names reach no workload, whatever a pattern may yield
        Role::Workload(key) if is_own => match key.name.audience() {
            Audience::Workload => Decision::Own(key),
            Audience::Kubernetes | Audience::Raw => {
                Decision::Refused("secrets with a prefix reach no workload")
            }
        },
        Role::Sentinel if !is_own => Decision::WithProof,
        Role::Workload(_) => Decision::Refused("a workload may not administer secrets"),
        Role::Sentinel => Decision::Refused("sentinel may replace secrets, never read one"),
        Role::Safe => Decision::Refused("Safe has no business with itself"),
        Role::Stranger => {
            Decision::Refused("the SPIFFE ID fits neither the workloads' patterns nor sentinel's")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTIONS: [Action; 6] = [
        Action::Fetch,
        Action::Watch,
        Action::Acknowledge,
        Action::Put,
        Action::Delete,
        Action::List,
    ];

    fn table(role: &Role) -> [char; 6] {
        ACTIONS.map(|action| match decide(role, action) {
            Decision::Own(key) => {
                assert!(matches!(role, Role::Workload(own) if own == key));
                'o'
            }
            Decision::WithProof => 'p',
            Decision::Refused(_) => '-',
        })
    }

    #[test]
    fn each_role_has_its_actions_and_no_other() {
        let workload = |name| Role::Workload(SecretKey::parse("shop", name).unwrap());
        let row = |text: &str| -> [char; 6] {
            let cells: Vec<char> = text.chars().collect();
            cells.try_into().unwrap()
        };
        assert_eq!(table(&workload("db")), row("ooo---"));
        assert_eq!(table(&workload("k8s:db")), row("------"));
        assert_eq!(table(&workload("raw:db")), row("------"));
        assert_eq!(table(&Role::Sentinel), row("---ppp"));
        assert_eq!(table(&Role::Safe), row("------"));
        assert_eq!(table(&Role::Stranger), row("------"));
    }
}
