//! A SPIFFE ID, and below it, after a newline, an operator's name pattern: the key that an ID
//! yields is made of parts of this ID, and the ID is of the trust domain.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use vsecm_safe_api::role::{
    DEFAULT_NAME_PATTERN, DEFAULT_NODE_AGENT_PATTERN, DEFAULT_SAFE_PATTERN,
    DEFAULT_SENTINEL_PATTERN, DEFAULT_WORKLOAD_PATTERN, IdPattern, NODE_AGENT_PATTERN, NamePattern,
    Role, RolePatterns, SAFE_PATTERN, SENTINEL_PATTERN, WORKLOAD_PATTERN,
};

const DOMAIN: &str = "vsecm.com";
const START: &str = "spiffe://vsecm.com/";

static PATTERNS: LazyLock<RolePatterns> = LazyLock::new(|| {
    let id = |variable, text| IdPattern::parse(variable, text, DOMAIN).expect("a default");
    RolePatterns {
        safe: id(SAFE_PATTERN, DEFAULT_SAFE_PATTERN),
        sentinel: id(SENTINEL_PATTERN, DEFAULT_SENTINEL_PATTERN),
        node_agent: id(NODE_AGENT_PATTERN, DEFAULT_NODE_AGENT_PATTERN),
        workload: id(WORKLOAD_PATTERN, DEFAULT_WORKLOAD_PATTERN),
        name: NamePattern::parse(DEFAULT_NAME_PATTERN, DOMAIN).expect("a default"),
    }
});

fuzz_target!(|data: &str| {
    let (id, pattern) = data.split_once('\n').unwrap_or((data, ""));
    // a mutation seldom hits a whole ID: also as the path of one
    for id in [id, &format!("{START}{id}"), &format!("{START}workload/{id}")] {
        by_default_patterns(id);
        by_operators_pattern(id, &format!("^{START}{pattern}"));
    }
});

fn by_default_patterns(id: &str) {
    match PATTERNS.role(id) {
        Role::Workload(key) => {
            let path = id.strip_prefix(START).expect("of the trust domain");
            let parts: Vec<&str> = path.split('/').collect();
            let ["workload", name, "ns", namespace, "sa", _, "n", _] = parts.as_slice() else {
                panic!("{id} is no workload's");
            };
            assert_eq!((key.name.as_str(), key.namespace.as_str()), (*name, *namespace));
        }
        Role::Safe | Role::Sentinel | Role::NodeAgent => assert!(id.starts_with(START), "{id}"),
        Role::Stranger => {}
    }
}

fn by_operators_pattern(id: &str, pattern: &str) {
    let Ok(names) = NamePattern::parse(pattern, DOMAIN) else {
        return;
    };
    if let Some(key) = names.key(id) {
        let path = id.strip_prefix(START).expect("of the trust domain");
        for part in [key.name.as_str(), key.namespace.as_str()] {
            assert!(path.split('/').any(|p| p == part), "{part} of {id}");
        }
    }
}
