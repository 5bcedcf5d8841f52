//! What binds this node agent's words together at Safe, and to nobody else's.
//!
//! All node agents have one SPIFFE ID, and a node's name is a claim. So each makes up a secret and
//! cites it in acknowledgements and reports: only who knows it can withdraw what it said. The
//! keeper holds it, as a successor must be able to withdraw what its predecessor said.

use std::{fmt, os::fd::OwnedFd, sync::Arc};

use vsecm_node_agent_api::frame::ContentKey;

use crate::{keeper::Keeper, memfd};

/// Its name at the keeper.
const NAME: &str = "report-origin";
/// Random bytes.
const BYTES: usize = 16;

/// The secret, as Safe takes it: 32 hex digits.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Origin(String);

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Origin(redacted)")
    }
}

/// Whether the keeper's entry of this name is an origin.
pub fn is_origin(key: &ContentKey) -> bool {
    String::from(key.clone()) == NAME
}

impl Origin {
    /// A new one.
    pub(super) fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0_u8; BYTES];
        getrandom::fill(&mut bytes)?;
        Ok(Self(format!("{:032x}", u128::from_be_bytes(bytes))))
    }

    /// For Safe alone.
    pub(super) fn expose(&self) -> String {
        self.0.clone()
    }

    pub(super) fn from_memfd(memfd: &OwnedFd) -> Option<Self> {
        let bytes = memfd::contents(memfd, 2 * BYTES).ok()?;
        let text = std::str::from_utf8(&bytes).ok()?;
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (text.len() == 2 * BYTES && text.bytes().all(is_hex)).then(|| Self(text.to_owned()))
    }

    /// Leaves it for a successor. Without it the successor's word is another's, and what is gone by
    /// then stays in Safe's list for a day.
    pub(super) async fn deposit(&self, keeper: &Keeper) {
        let key = ContentKey::try_from(NAME.to_owned());
        if let (Ok(key), Ok(memfd)) = (key, memfd::sealed(&[self.0.as_bytes()])) {
            keeper.deposit(key, Arc::new(memfd)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_random_survives_its_process_and_is_not_printed() {
        let origin = Origin::random().unwrap();
        assert_ne!(origin, Origin::random().unwrap());
        let memfd = memfd::sealed(&[origin.0.as_bytes()]).unwrap();
        assert_eq!(Origin::from_memfd(&memfd).as_ref(), Some(&origin));
        assert!(is_origin(&ContentKey::try_from(NAME.to_owned()).unwrap()));
        assert_eq!(format!("{origin:?}"), "Origin(redacted)");
        for bad in ["", "0123", &"x".repeat(32)] {
            let memfd = memfd::sealed(&[bad.as_bytes()]).unwrap();
            assert_eq!(Origin::from_memfd(&memfd), None, "{bad}");
        }
    }
}
