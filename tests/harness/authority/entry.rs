//! Registration entries: who gets which identity.

use std::{collections::BTreeSet, fmt, str::FromStr};

use spiffe::SpiffeId;

use super::ca::Lifetime;

/// One fact that an attestor found out about a caller, `type:value`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    kind: String,
    value: String,
}

impl Selector {
    /// A selector of its two parts.
    pub fn new(kind: impl Into<String>, value: impl Into<String>) -> Self {
        Self { kind: kind.into(), value: value.into() }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

/// The text has no `:` in it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a selector is TYPE:VALUE, not {0:?}")]
pub struct ParseSelectorError(String);

impl FromStr for Selector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Self, ParseSelectorError> {
        let (kind, value) =
            text.split_once(':').ok_or_else(|| ParseSelectorError(text.to_owned()))?;
        Ok(Self::new(kind, value))
    }
}

/// What is known of a caller, or stated about one by a delegate.
pub type Attested = BTreeSet<Selector>;

/// A registration entry.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The identity it grants. Its trust domain decides which CA issues: another one than the
    /// authority's own is a foreign CA's.
    pub id: SpiffeId,
    /// All of these must be attested.
    pub selectors: BTreeSet<Selector>,
    /// How long the SVIDs last.
    pub lifetime: Lifetime,
    /// What the identity is for, where several match.
    pub hint: String,
}

impl Entry {
    /// An entry without hint.
    pub fn new(
        id: SpiffeId,
        selectors: impl IntoIterator<Item = Selector>,
        lifetime: Lifetime,
    ) -> Self {
        Self { id, selectors: selectors.into_iter().collect(), lifetime, hint: String::new() }
    }

    /// SPIRE's rule: every selector of the entry is among those attested; more of them do no harm.
    pub(super) fn matches(&self, attested: &Attested) -> bool {
        self.selectors.is_subset(attested)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn set(selectors: &[&str]) -> BTreeSet<Selector> {
        selectors.iter().map(|s| s.parse().unwrap()).collect()
    }

    #[test]
    fn an_entry_matches_when_its_selectors_are_a_subset() {
        let id = SpiffeId::new("spiffe://vsecm.com/a").unwrap();
        let lifetime = Lifetime::Renewed(Duration::from_mins(1));
        let entry = Entry::new(id, set(&["k8s:ns:shop", "k8s:pod-uid:u1"]), lifetime);
        let all = ["k8s:ns:shop", "k8s:pod-uid:u1", "k8s:sa:web"];
        assert!(entry.matches(&set(&all)));
        assert!(!entry.matches(&set(&["k8s:ns:shop", "k8s:sa:web"])));
        assert!(!entry.matches(&set(&[])));
    }

    #[test]
    fn the_value_of_a_selector_may_hold_colons() {
        let label: Selector = "k8s:pod-label:app:web".parse().unwrap();
        assert_eq!(label, Selector::new("k8s", "pod-label:app:web"));
        assert_eq!(label.to_string(), "k8s:pod-label:app:web");
        assert!("nothing".parse::<Selector>().is_err());
    }
}
