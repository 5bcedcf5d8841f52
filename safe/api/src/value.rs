//! A secret's value.

use zeroize::Zeroizing;

/// Bytes in a value at most: 1 MiB, as a Kubernetes Secret.
pub const VALUE_LIMIT: usize = 1024 * 1024;

/// Why bytes are not a value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ValueError {
    /// There are none.
    #[error("the value is empty")]
    Empty,
    /// There are too many.
    #[error("the value has {length} bytes, at most {VALUE_LIMIT} (1 MiB) are allowed")]
    TooLong {
        /// Bytes given.
        length: usize,
    },
}

/// A value of 1 byte to 1 MiB. It cannot be printed, copied or serialised, and is wiped when it
/// is dropped ([I7]).
#[expect(missing_debug_implementations, reason = "a value has no exits")]
pub struct SecretValue(Zeroizing<Vec<u8>>);

impl SecretValue {
    /// Takes the bytes over. Refused bytes are wiped too.
    ///
    /// # Errors
    /// [`ValueError`].
    pub fn new(bytes: Vec<u8>) -> Result<Self, ValueError> {
        let bytes = Zeroizing::new(bytes);
        match bytes.len() {
            0 => Err(ValueError::Empty),
            length if length > VALUE_LIMIT => Err(ValueError::TooLong { length }),
            _ => Ok(Self(bytes)),
        }
    }

    /// The bytes, for the one who must have them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes there are.
    pub fn size(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_one_byte_to_one_mebibyte() {
        assert_eq!(SecretValue::new(vec![]).err(), Some(ValueError::Empty));
        assert!(SecretValue::new(vec![0; VALUE_LIMIT]).is_ok());
        assert_eq!(
            SecretValue::new(vec![0; VALUE_LIMIT + 1]).err(),
            Some(ValueError::TooLong { length: VALUE_LIMIT + 1 })
        );
    }
}
