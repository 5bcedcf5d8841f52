//! How Safe says that it has no root key yet: in metadata, as its words may change.

use tonic::{
    Status,
    metadata::{AsciiMetadataValue, MetadataMap},
};

use crate::metadata::{LOCKED, REASON};

/// The answer of a Safe that cannot open its store before it has its root key.
pub fn locked(sentence: impl Into<String>) -> Status {
    let mut status = Status::unavailable(sentence);
    status.metadata_mut().insert(REASON, AsciiMetadataValue::from_static(LOCKED));
    status
}

/// Whether `status` is such an answer.
pub fn is_locked(status: &Status) -> bool {
    let reason = |metadata: &MetadataMap| metadata.get(REASON).is_some_and(|said| said == LOCKED);
    reason(status.metadata())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_safe_itself_says_that_it_is_locked() {
        assert!(is_locked(&locked("no root key yet")));
        assert!(!is_locked(&Status::unavailable("the socket is locked")));
    }
}
