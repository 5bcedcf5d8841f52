//! Random words that only their owner knows.

use std::{fmt, str::FromStr};

/// The id of a watch, or the origin of a node agent's words: who cites it has it from its owner.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token([u8; 16]);

/// It is not one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("it must be 32 lower-case hex digits")]
pub struct TokenError;

impl Token {
    /// A new one.
    ///
    /// # Errors
    /// The kernel gives no random bytes.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// For its owner alone.
    pub fn expose(&self) -> String {
        hex::encode(self.0)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut bytes = [0; 16];
        let is_lower = !text.bytes().any(|b| b.is_ascii_uppercase());
        match hex::decode_to_slice(text, &mut bytes) {
            Ok(()) if is_lower => Ok(Self(bytes)),
            _other => Err(TokenError),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_random_and_is_not_printed() {
        let token = Token::random().unwrap();
        assert_ne!(token, Token::random().unwrap());
        assert_eq!(token.expose().parse(), Ok(token));
        assert_eq!(format!("{token:?}"), "Token(redacted)");
        for bad in ["", "0", &"0".repeat(31), &"0".repeat(34), &"A".repeat(32), &"x".repeat(32)] {
            assert_eq!(bad.parse::<Token>(), Err(TokenError), "{bad:?}");
        }
    }
}
