//! A member of a document: what a key's file shows.

use zeroize::Zeroizing;

/// A key and its value.
pub struct Member {
    /// The key, unescaped.
    pub key: String,
    /// A string's own bytes; any other value as JSON without white space.
    pub value: Zeroizing<Vec<u8>>,
    /// What the value was.
    pub shape: Shape,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Whether there are members further down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The value is a JSON object.
    Object,
    /// It is something else, as a string that may look like one.
    Other,
}
