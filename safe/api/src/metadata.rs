//! The headers beside the messages.

/// Follows one command of an operator through every log and audit line.
pub const CORRELATION_ID: &str = "x-vsecm-correlation-id";

/// Sentinel's second proof: its token, in ASCII.
pub const ADMIN_TOKEN: &str = "x-vsecm-admin-token";

/// Why a call failed, where its code does not tell.
pub const REASON: &str = "x-vsecm-reason";

/// The [`REASON`] of a Safe without its root key.
pub const LOCKED: &str = "locked";

/// The id of a watch, with its first answer: whoever cites it holds the watch.
pub const WATCH: &str = "x-vsecm-watch";

/// Characters of a correlation id at most.
pub const CORRELATION_ID_LIMIT: usize = 64;
