//! What this process pretends that its kernel lacks: set once, at its start.

use std::sync::OnceLock;

use vsecm_node_agent_api::kernel::{Feature, Features};

static PRETENDED: OnceLock<Features> = OnceLock::new();

/// From now on these are done without.
pub fn pretend(lacking: Features) {
    // the first word stands: sessions may have begun with it
    let _is_first: bool = PRETENDED.set(lacking).is_ok();
}

/// Whether a feature may be used, if the kernel has it.
pub fn may_use(feature: Feature) -> bool {
    !PRETENDED.get().is_some_and(|lacking| lacking.has(feature))
}
