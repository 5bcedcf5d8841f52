//! Whether a pattern fixes namespace and service account.
//!
//! Whoever makes pods in a namespace chooses their labels, and a node can make static pods; neither
//! can take the service account of another namespace. A pattern with a wildcard there would give
//! its role to them.

use regex_syntax::hir::{Class, Hir, HirKind, Look};

use super::{id_start, regex_start};

/// Whether all that the pattern takes stands under `/ns/NAMESPACE/sa/ACCOUNT` with one namespace
/// and one account.
pub(super) fn is_fixed(text: &str, trust_domain: &str) -> bool {
    if let Some(path) = text.strip_prefix(&regex_start(trust_domain)) {
        return regex_syntax::parse(path).is_ok_and(|path| has_account(&segments(&path)));
    }
    let Some(path) = text.strip_prefix(&id_start(trust_domain)) else {
        return false;
    };
    // after a prefix stands anything: what follows its last slash is no whole segment
    let mut parts: Vec<Segment> = path.split('/').map(|s| Segment::Fixed(s.to_owned())).collect();
    parts.pop();
    has_account(&parts)
}

/// Whether the pattern takes one SPIFFE ID and no other.
pub(super) fn is_one_id(text: &str, trust_domain: &str) -> bool {
    let Some(path) = text.strip_prefix(&regex_start(trust_domain)) else {
        // a prefix takes all that begins with it
        return false;
    };
    let is_one = |path: &Hir| match parts(path).split_last() {
        Some((end, path)) => {
            let is_literal = |part: &&Hir| matches!(part.kind(), HirKind::Literal(_));
            matches!(end.kind(), HirKind::Look(Look::End))
                && !path.is_empty()
                && path.iter().all(is_literal)
        }
        None => false,
    };
    regex_syntax::parse(path).is_ok_and(|path| is_one(&path))
}

/// One whole segment of the path, as far as the pattern knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Fixed(String),
    Any,
}

/// The last pair counts: it is the one that sentinel's token is compared with.
fn has_account(segments: &[Segment]) -> bool {
    let word = |segment: &Segment, word| matches!(segment, Segment::Fixed(text) if text == word);
    let named = |segment: &Segment| matches!(segment, Segment::Fixed(text) if !text.is_empty());
    let last = segments.windows(4).rev().find_map(|window| match window {
        [ns, namespace, sa, account] if word(ns, "ns") && word(sa, "sa") => {
            Some(named(namespace) && named(account))
        }
        _other => None,
    });
    last.unwrap_or(false)
}

/// The segments in front of the first place where it is open how many there are.
fn segments(path: &Hir) -> Vec<Segment> {
    let mut whole = Vec::new();
    let mut open = Segment::Fixed(String::new());
    for part in parts(path) {
        match part.kind() {
            HirKind::Literal(literal) => {
                let text = String::from_utf8_lossy(&literal.0);
                let mut pieces = text.split('/');
                extend(&mut open, pieces.next().unwrap_or_default());
                for piece in pieces {
                    whole.push(std::mem::replace(&mut open, Segment::Fixed(piece.to_owned())));
                }
            }
            HirKind::Look(Look::End) => {
                whole.push(open);
                return whole;
            }
            _wildcard if may_hold_slash(part) => return whole,
            _wildcard => open = Segment::Any,
        }
    }
    // the expression has no end: more may follow in this segment
    whole
}

fn extend(open: &mut Segment, piece: &str) {
    if let Segment::Fixed(text) = open {
        text.push_str(piece);
    }
}

/// The parts of an expression in their order, without the groups around them.
fn parts(hir: &Hir) -> Vec<&Hir> {
    match hir.kind() {
        HirKind::Concat(all) => all.iter().flat_map(parts).collect(),
        HirKind::Capture(group) => parts(&group.sub),
        _single => vec![hir],
    }
}

fn may_hold_slash(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => false,
        HirKind::Literal(literal) => literal.0.contains(&b'/'),
        HirKind::Class(Class::Unicode(class)) => {
            class.iter().any(|range| range.start() <= '/' && '/' <= range.end())
        }
        HirKind::Class(Class::Bytes(class)) => {
            class.iter().any(|range| range.start() <= b'/' && b'/' <= range.end())
        }
        HirKind::Repetition(repetition) => may_hold_slash(&repetition.sub),
        HirKind::Capture(group) => may_hold_slash(&group.sub),
        HirKind::Concat(all) | HirKind::Alternation(all) => all.iter().any(may_hold_slash),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::{DEFAULT_NODE_AGENT_PATTERN, DEFAULT_SAFE_PATTERN, DEFAULT_SENTINEL_PATTERN};

    #[test]
    fn a_pattern_that_names_one_account_is_fixed() {
        for text in [
            DEFAULT_SAFE_PATTERN,
            DEFAULT_SENTINEL_PATTERN,
            "^spiffe://vsecm.com/workload/[^/]+/ns/vsecm-system/sa/vsecm-safe/n/.*",
            "^spiffe://vsecm.com/ns/vsecm-system/sa/vsecm-safe$",
            "^spiffe://vsecm.com/ns/(vsecm-system)/sa/vsecm\\.safe/",
            "^spiffe://vsecm.com/workload/ns/ns/ns/sa/ns/n/[^/]+$",
            "spiffe://vsecm.com/workload/vsecm-safe/ns/vsecm-system/sa/vsecm-safe/n/",
            "spiffe://vsecm.com/ns/vsecm-system/sa/vsecm-safe/",
        ] {
            assert!(is_fixed(text, "vsecm.com"), "{text}");
        }
    }

    #[test]
    fn a_pattern_that_others_could_fit_is_not() {
        for text in [
            "",
            "spiffe://vsecm.com/",
            "spiffe://vsecm.com/workload/vsecm-safe/",
            "spiffe://vsecm.com/workload/vsecm-safe/ns/vsecm-system/sa/vsecm-safe",
            "spiffe://other.org/ns/vsecm-system/sa/vsecm-safe/",
            "^spiffe://other.org/ns/vsecm-system/sa/vsecm-safe/",
            "^spiffe://vsecm.com/workload/vsecm-safe/ns/[^/]+/sa/vsecm-safe/n/[^/]+$",
            "^spiffe://vsecm.com/workload/vsecm-safe/ns/vsecm-system/sa/[^/]+/n/[^/]+$",
            "^spiffe://vsecm.com/workload/vsecm-safe/ns/vsecm-.*/sa/vsecm-safe/n/[^/]+$",
            "^spiffe://vsecm.com/workload/vsecm-safe/ns/vsecm-system/sa/vsecm-safe",
            "^spiffe://vsecm.com/workload/vsecm-safe/ns/vsecm-system/sa/vsecm.safe/n/[^/]+$",
            "^spiffe://vsecm.com/workload/vsecm-safe/ns/vsecm-system/sa/(?i)vsecm-safe/n/x$",
            "^spiffe://vsecm.com/.*/ns/vsecm-system/sa/vsecm-safe/n/[^/]+$",
            "^spiffe://vsecm.com/ns/vsecm-system/sa/vsecm-safe/n/[^/]+$|.*",
            "^spiffe://vsecm.com/(ns/vsecm-system/sa/vsecm-safe|ns/default/sa/default)$",
            "^spiffe://vsecm.com/ns/vsecm-system/(sa/vsecm-safe)?",
            "^spiffe://vsecm.com/ns//sa//n/x$",
            "^spiffe://vsecm.com/ns/vsecm-system/sa/vsecm-safe/ns/[^/]+/sa/[^/]+/n/[^/]+$",
            "^spiffe://vsecm.com/ns/a?/sa/b/",
        ] {
            assert!(!is_fixed(text, "vsecm.com"), "{text}");
        }
    }

    #[test]
    fn a_pattern_of_one_id_has_no_wildcard_and_an_end() {
        for text in [DEFAULT_NODE_AGENT_PATTERN, "^spiffe://vsecm.com/nodes/(agent)$"] {
            assert!(is_one_id(text, "vsecm.com"), "{text}");
        }
        for text in [
            "",
            "spiffe://vsecm.com/vsecm-node-agent",
            "^spiffe://vsecm.com/$",
            "^spiffe://vsecm.com/vsecm-node-agent",
            "^spiffe://vsecm.com/vsecm.node-agent$",
            "^spiffe://vsecm.com/(a|b)$",
            "^spiffe://vsecm.com/(?i)vsecm-node-agent$",
            "^spiffe://vsecm.com/vsecm-node-agent$|.*",
            "^spiffe://vsecm.com/vsecm-node-agent-?$",
            "^spiffe://other.org/vsecm-node-agent$",
        ] {
            assert!(!is_one_id(text, "vsecm.com"), "{text}");
        }
    }
}
