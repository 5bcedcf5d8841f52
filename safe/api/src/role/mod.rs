//! What a SPIFFE ID may be, by the operator's patterns ([I8]).
//!
//! The variables, their defaults and the rule "a text that starts with `^spiffe://<trust domain>/`
//! is a regular expression, any other a plain prefix" are VSecM's.

mod account;
mod error;

use std::collections::BTreeSet;

use regex::Regex;

pub use self::error::PatternError;
use crate::name::{Namespace, PodName, SecretKey, SecretName};

/// The variable of the trust domain.
pub const TRUST_DOMAIN: &str = "SPIFFE_TRUST_DOMAIN";
/// The variable of Safe's pattern.
pub const SAFE_PATTERN: &str = "VSECM_SPIFFEID_PREFIX_SAFE";
/// The variable of sentinel's pattern.
pub const SENTINEL_PATTERN: &str = "VSECM_SPIFFEID_PREFIX_SENTINEL";
/// The variable of node-agent's pattern.
pub const NODE_AGENT_PATTERN: &str = "VSECM_SPIFFEID_PREFIX_NODE_AGENT";
/// The variable of the workloads' pattern.
pub const WORKLOAD_PATTERN: &str = "VSECM_SPIFFEID_PREFIX_WORKLOAD";
/// The variable of the pattern that yields a workload's name and namespace.
pub const NAME_PATTERN: &str = "VSECM_WORKLOAD_NAME_REGEXP";

/// The default trust domain.
pub const DEFAULT_TRUST_DOMAIN: &str = "vsecm.com";
/// The default of [`SAFE_PATTERN`].
pub const DEFAULT_SAFE_PATTERN: &str =
    "^spiffe://vsecm.com/workload/vsecm-safe/ns/vsecm-system/sa/vsecm-safe/n/[^/]+$";
/// The default of [`SENTINEL_PATTERN`].
pub const DEFAULT_SENTINEL_PATTERN: &str =
    "^spiffe://vsecm.com/workload/vsecm-sentinel/ns/vsecm-system/sa/vsecm-sentinel/n/[^/]+$";
/// The default of [`NODE_AGENT_PATTERN`]: the same on every node, as SPIRE's delegates are.
pub const DEFAULT_NODE_AGENT_PATTERN: &str = "^spiffe://vsecm.com/vsecm-node-agent$";
/// The default of [`WORKLOAD_PATTERN`].
pub const DEFAULT_WORKLOAD_PATTERN: &str =
    "^spiffe://vsecm.com/workload/[^/]+/ns/[^/]+/sa/[^/]+/n/[^/]+$";
/// The default of [`NAME_PATTERN`].
pub const DEFAULT_NAME_PATTERN: &str =
    "^spiffe://vsecm.com/workload/([^/]+)/ns/[^/]+/sa/[^/]+/n/[^/]+$";

/// Tells whether a SPIFFE ID has a role.
#[derive(Clone, Debug)]
pub struct IdPattern(Matcher);

#[derive(Clone, Debug)]
enum Matcher {
    Prefix(String),
    Regex { start: String, regex: Regex },
}

impl IdPattern {
    /// Reads the text of the variable `variable`.
    ///
    /// # Errors
    /// [`PatternError::Syntax`].
    pub fn parse(
        variable: &'static str,
        text: &str,
        trust_domain: &str,
    ) -> Result<Self, PatternError> {
        if !text.starts_with(&regex_start(trust_domain)) {
            return Ok(Self(Matcher::Prefix(text.to_owned())));
        }
        let (start, regex) = (id_start(trust_domain), compile(variable, text)?);
        Ok(Self(Matcher::Regex { start, regex }))
    }

    /// Reads a pattern that must fix namespace and service account, as those of Safe and sentinel
    /// must where they give rights.
    ///
    /// # Errors
    /// [`PatternError::Syntax`], [`PatternError::Account`].
    pub fn parse_of_one_account(
        variable: &'static str,
        text: &str,
        trust_domain: &str,
    ) -> Result<Self, PatternError> {
        let pattern = Self::parse(variable, text, trust_domain)?;
        if account::is_fixed(text, trust_domain) {
            return Ok(pattern);
        }
        Err(PatternError::Account { variable, trust_domain: trust_domain.to_owned() })
    }

    /// Reads a pattern of one SPIFFE ID, or of one service account, as node-agent's must be.
    ///
    /// # Errors
    /// [`PatternError::Syntax`], [`PatternError::One`].
    pub fn parse_of_one(
        variable: &'static str,
        text: &str,
        trust_domain: &str,
    ) -> Result<Self, PatternError> {
        let pattern = Self::parse(variable, text, trust_domain)?;
        if account::is_one_id(text, trust_domain) || account::is_fixed(text, trust_domain) {
            return Ok(pattern);
        }
        Err(PatternError::One { variable, trust_domain: trust_domain.to_owned() })
    }

    /// Whether the ID has the role.
    pub fn matches(&self, id: &str) -> bool {
        match &self.0 {
            // an empty prefix would give the role to everyone
            Matcher::Prefix(prefix) => !prefix.is_empty() && id.starts_with(prefix),
            Matcher::Regex { start, regex } => id.starts_with(start) && regex.is_match(id),
        }
    }
}

fn regex_start(trust_domain: &str) -> String {
    format!("^{}", id_start(trust_domain))
}

/// An expression alone does not pin the trust domain: its `.` is any character, and `|` may follow.
fn id_start(trust_domain: &str) -> String {
    format!("spiffe://{trust_domain}/")
}

fn compile(variable: &'static str, text: &str) -> Result<Regex, PatternError> {
    Regex::new(text).map_err(|e| PatternError::Syntax { variable, source: Box::new(e) })
}

/// Yields the key (namespace, name) and the pod that stand in a workload's SPIFFE ID.
#[derive(Clone, Debug)]
pub struct NamePattern {
    start: String,
    regex: Regex,
    name_group: usize,
    pod: Option<Regex>,
}

impl NamePattern {
    /// Reads the text of [`NAME_PATTERN`].
    ///
    /// # Errors
    /// [`PatternError`], by the variable's name.
    pub fn parse(text: &str, trust_domain: &str) -> Result<Self, PatternError> {
        let variable = NAME_PATTERN;
        if !text.starts_with(&regex_start(trust_domain)) {
            return Err(PatternError::TrustDomain {
                variable,
                trust_domain: trust_domain.to_owned(),
            });
        }
        // the operator's text first, so that an error in it is shown as it was written
        let written = compile(variable, text)?;
        let has_group = |group| written.capture_names().flatten().any(|name| name == group);
        // a regex of its own, which decides nothing: an operator may leave open where the pod stands
        let pod = if has_group(POD) {
            Some(written.clone())
        } else {
            with_group(text, "/n/", POD).ok().and_then(|text| Regex::new(&text).ok())
        };
        let regex = if has_group(NAMESPACE) {
            written
        } else {
            let grouped = with_group(text, "/ns/", NAMESPACE);
            compile(
                variable,
                &grouped.map_err(|found| PatternError::Namespace { variable, found })?,
            )?
        };
        let name_group = regex
            .capture_names()
            .enumerate()
            .skip(1)
            .find_map(|(group, name)| name.is_none().then_some(group))
            .ok_or(PatternError::Name { variable })?;
        let start = id_start(trust_domain);
        Ok(Self { start, regex, name_group, pod })
    }

    /// The key, or `None` if the ID does not fit, or if name or namespace is not a whole segment
    /// of the path (half a segment could be another workload's name).
    pub fn key(&self, id: &str) -> Option<SecretKey> {
        let captures = self.regex.captures(id)?;
        if !id.starts_with(&self.start) {
            return None;
        }
        let name = segment(id, captures.get(self.name_group)?.range())?;
        let namespace = segment(id, captures.name(NAMESPACE)?.range())?;
        let name: SecretName = name.parse().ok()?;
        let namespace: Namespace = namespace.parse().ok()?;
        Some(SecretKey { namespace, name })
    }

    /// The pod, or `None` if the ID does not fit or the pattern does not say where it stands: in a
    /// group `(?P<pod>[^/]+)`, or after the single `/n/`.
    pub fn pod(&self, id: &str) -> Option<PodName> {
        self.key(id)?;
        segment(id, self.pod.as_ref()?.captures(id)?.name(POD)?.range())?.parse().ok()
    }
}

/// The group of the namespace.
const NAMESPACE: &str = "namespace";
/// The group of the pod.
const POD: &str = "pod";

fn segment(id: &str, range: std::ops::Range<usize>) -> Option<&str> {
    let before = id.get(..range.start)?;
    let after = id.get(range.end..)?;
    let is_whole = before.ends_with('/') && (after.is_empty() || after.starts_with('/'));
    let text = id.get(range)?;
    (is_whole && !text.contains('/')).then_some(text)
}

/// Puts the segment after the single `mark` of the pattern into a group of its own; how many marks
/// were found if that is not clear.
fn with_group(text: &str, mark: &str, group: &str) -> Result<String, usize> {
    // overlapping ones count too: in "/ns/ns/x" it is not clear which is meant
    let starts: BTreeSet<usize> = text
        .char_indices()
        .filter_map(|(at, _)| text.get(at..)?.starts_with(mark).then_some(at))
        .collect();
    let (1, Some(start)) = (starts.len(), starts.first()) else {
        return Err(starts.len());
    };
    let (head, tail) = text.split_at(start + mark.len());
    let mut in_class = false;
    let mut is_escaped = false;
    let end = tail.char_indices().find_map(|(at, c)| {
        let stop = !is_escaped && !in_class && matches!(c, '/' | '$');
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '[' => in_class = true,
            ']' => in_class = false,
            _ => {}
        }
        stop.then_some(at)
    });
    let (segment, rest) = tail.split_at(end.unwrap_or(tail.len()));
    if segment.is_empty() {
        return Err(0);
    }
    Ok(format!("{head}(?P<{group}>{segment}){rest}"))
}

/// What a caller is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Safe itself.
    Safe,
    /// The operator's hand; its rights need a second proof.
    Sentinel,
    /// The agent of some node, which reports and reads nothing.
    NodeAgent,
    /// A workload, with the key of its secret.
    Workload(SecretKey),
    /// Anyone else with an SVID of the trust domain.
    Stranger,
}

/// The operator's patterns.
#[derive(Clone, Debug)]
pub struct RolePatterns {
    /// [`SAFE_PATTERN`].
    pub safe: IdPattern,
    /// [`SENTINEL_PATTERN`].
    pub sentinel: IdPattern,
    /// [`NODE_AGENT_PATTERN`].
    pub node_agent: IdPattern,
    /// [`WORKLOAD_PATTERN`].
    pub workload: IdPattern,
    /// [`NAME_PATTERN`].
    pub name: NamePattern,
}

impl RolePatterns {
    /// The one role of a SPIFFE ID. Safe, sentinel and node-agent are no workloads, even where the
    /// workloads' pattern covers them.
    pub fn role(&self, id: &str) -> Role {
        if self.safe.matches(id) {
            Role::Safe
        } else if self.sentinel.matches(id) {
            Role::Sentinel
        } else if self.node_agent.matches(id) {
            Role::NodeAgent
        } else if self.workload.matches(id) {
            self.name.key(id).map_or(Role::Stranger, Role::Workload)
        } else {
            Role::Stranger
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn patterns() -> RolePatterns {
        let id = |variable, text| IdPattern::parse(variable, text, "vsecm.com").unwrap();
        RolePatterns {
            safe: id(SAFE_PATTERN, DEFAULT_SAFE_PATTERN),
            sentinel: id(SENTINEL_PATTERN, DEFAULT_SENTINEL_PATTERN),
            node_agent: id(NODE_AGENT_PATTERN, DEFAULT_NODE_AGENT_PATTERN),
            workload: id(WORKLOAD_PATTERN, DEFAULT_WORKLOAD_PATTERN),
            name: NamePattern::parse(DEFAULT_NAME_PATTERN, "vsecm.com").unwrap(),
        }
    }

    fn key(namespace: &str, name: &str) -> SecretKey {
        SecretKey::parse(namespace, name).unwrap()
    }

    #[test]
    fn the_defaults_tell_the_roles_apart() {
        let role = |id: &str| patterns().role(&format!("spiffe://vsecm.com/{id}"));
        assert_eq!(role("workload/vsecm-safe/ns/vsecm-system/sa/vsecm-safe/n/p"), Role::Safe);
        assert_eq!(
            role("workload/vsecm-sentinel/ns/vsecm-system/sa/vsecm-sentinel/n/p"),
            Role::Sentinel
        );
        assert_eq!(role("vsecm-node-agent"), Role::NodeAgent);
        assert_eq!(role("workload/db/ns/shop/sa/db/n/db-0"), Role::Workload(key("shop", "db")));
        for stranger in
            ["vsecm-node-agent-2", "workload/db/ns/shop", "workload/db/ns/shop/sa/a/n/b/c"]
        {
            assert_eq!(role(stranger), Role::Stranger, "{stranger}");
        }
        for domain in ["other.org", "vsecmxcom"] {
            let id = format!("spiffe://{domain}/workload/db/ns/shop/sa/db/n/db-0");
            assert_eq!(patterns().role(&id), Role::Stranger);
            assert_eq!(patterns().name.key(&id), None);
        }
    }

    #[test]
    fn a_workload_called_ns_is_told_from_its_namespace() {
        assert_eq!(
            patterns().role("spiffe://vsecm.com/workload/ns/ns/ns/sa/ns/n/ns"),
            Role::Workload(key("ns", "ns"))
        );
        assert_eq!(
            patterns().role("spiffe://vsecm.com/workload/ns/ns/shop/sa/ns/n/ns"),
            Role::Workload(key("shop", "ns"))
        );
    }

    #[test]
    fn the_namespace_may_stand_before_the_name() {
        let pattern =
            NamePattern::parse("^spiffe://aegis.ist/ns/[^/]+/sa/([^/]+)$", "aegis.ist").unwrap();
        assert_eq!(pattern.key("spiffe://aegis.ist/ns/shop/sa/db"), Some(key("shop", "db")));
    }

    #[test]
    fn a_named_group_says_the_namespace() {
        let text = "^spiffe://vsecm.com/(?P<namespace>[^/]+)/([^/]+)$";
        let pattern = NamePattern::parse(text, "vsecm.com").unwrap();
        assert_eq!(pattern.key("spiffe://vsecm.com/shop/db"), Some(key("shop", "db")));
    }

    #[test]
    fn the_pod_is_the_segment_after_n_or_a_named_group() {
        let pod = |text: &str, id: &str| {
            let pattern = NamePattern::parse(text, "vsecm.com").unwrap();
            pattern.pod(&format!("spiffe://vsecm.com/{id}")).map(|pod| pod.to_string())
        };
        let found = pod(DEFAULT_NAME_PATTERN, "workload/db/ns/shop/sa/db/n/db-0");
        assert_eq!(found.as_deref(), Some("db-0"));
        let named = "^spiffe://vsecm.com/(?P<pod>[^/]+)/ns/[^/]+/([^/]+)$";
        assert_eq!(pod(named, "db-0/ns/shop/db").as_deref(), Some("db-0"));
        for (text, id) in [
            (DEFAULT_NAME_PATTERN, "workload/db/ns/shop/sa/db/n/_x"),
            ("^spiffe://vsecm.com/ns/[^/]+/([^/]+)$", "ns/shop/db"),
            ("^spiffe://vsecm.com/n/[^/]+/n/[^/]+/ns/[^/]+/([^/]+)$", "n/a/n/b/ns/shop/db"),
        ] {
            assert_eq!(pod(text, id), None, "{text}");
            let id = format!("spiffe://vsecm.com/{id}");
            assert!(NamePattern::parse(text, "vsecm.com").unwrap().key(&id).is_some());
        }
    }

    #[test]
    fn a_pattern_without_one_namespace_is_refused_by_the_variables_name() {
        for bad in [
            "^spiffe://vsecm.com/workload/([^/]+)$",
            "^spiffe://vsecm.com/ns/[^/]+/ns/[^/]+/([^/]+)$",
            "^spiffe://vsecm.com/ns/ns/([^/]+)$",
            "^spiffe://vsecm.com/ns/[^/]+/sa/[^/]+$",
            "^spiffe://other.org/ns/[^/]+/sa/([^/]+)$",
            "^spiffe://vsecm.com/ns/[^/+/sa/([^/]+)$",
        ] {
            let refusal = NamePattern::parse(bad, "vsecm.com").unwrap_err();
            assert!(refusal.to_string().contains(NAME_PATTERN), "{bad}: {refusal}");
        }
    }

    #[test]
    fn half_a_segment_is_never_a_name() {
        let text = "^spiffe://vsecm.com/workload/([a-z])[^/]*/ns/[^/]+$";
        let pattern = NamePattern::parse(text, "vsecm.com").unwrap();
        assert_eq!(pattern.key("spiffe://vsecm.com/workload/ab/ns/shop"), None);
        assert!(pattern.key("spiffe://vsecm.com/workload/a/ns/shop").is_some());
    }

    #[test]
    fn a_text_that_is_no_regexp_is_a_prefix() {
        let pattern = IdPattern::parse(WORKLOAD_PATTERN, "spiffe://vsecm.com/w/", "vsecm.com");
        assert!(pattern.as_ref().unwrap().matches("spiffe://vsecm.com/w/a"));
        assert!(!pattern.unwrap().matches("spiffe://vsecm.com/x/w/a"));
        let empty = IdPattern::parse(WORKLOAD_PATTERN, "", "vsecm.com").unwrap();
        assert!(!empty.matches("spiffe://vsecm.com/w/a"));
    }

    const SEGMENT: &str = "[A-Za-z0-9_][A-Za-z0-9._-]{0,6}|ns|sa|n|workload";

    proptest! {
        #[test]
        fn an_id_yields_its_own_pair_and_no_other(
            name in SEGMENT, namespace in "[a-z]{1,5}|ns|sa|n", account in SEGMENT, pod in SEGMENT,
        ) {
            let id = format!("spiffe://vsecm.com/workload/{name}/ns/{namespace}/sa/{account}/n/{pod}");
            let found = patterns().name.key(&id);
            prop_assert_eq!(found, SecretKey::parse(&namespace, &name).ok());
            prop_assert_eq!(patterns().name.pod(&id), pod.parse().ok());
        }

        #[test]
        fn an_id_of_another_shape_yields_nothing(path in proptest::collection::vec(SEGMENT, 0..12)) {
            let id = format!("spiffe://vsecm.com/{}", path.join("/"));
            let fits = path.len() == 8 && path[0] == "workload" && path[2] == "ns"
                && path[4] == "sa" && path[6] == "n";
            if !fits {
                prop_assert_eq!(patterns().name.key(&id), None);
            }
        }
    }
}
