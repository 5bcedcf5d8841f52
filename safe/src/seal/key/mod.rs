//! The root key, and its file where it has one of its own.
//!
//! Three lines as in VSecM: age identity, age recipient, AES-256 key in hex. Only the identity is
//! believed; the recipient is derived from it and a file that says another one is refused.

mod error;
mod file;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt, path::Path};

use age::{
    secrecy::ExposeSecret as _,
    x25519::{Identity, Recipient},
};
use hkdf::Hkdf;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

pub use self::error::{ITEM, Place, RootKeyError};
pub(crate) use self::file::read;
use self::file::{create, replace};

/// What the HMAC key of records is derived for: another purpose needs another label ([I11]).
const RECORD_HMAC_LABEL: &[u8] = b"vsecm.com safe record hmac v1";

/// Which root key this is, safe to show: the first half of the recipient's SHA-256, in hex.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Hex digits of a fingerprint.
    const DIGITS: usize = 32;

    fn of(recipient: &Recipient) -> Self {
        let mut digits = hex::encode(Sha256::digest(recipient.to_string()));
        digits.truncate(Self::DIGITS);
        Self(digits)
    }

    /// The fingerprint that a record's header claims.
    pub(super) fn claimed(text: &str) -> Option<Self> {
        let plain = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        (text.len() == Self::DIGITS && text.bytes().all(plain)).then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the store says about sealed records before the key is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredRecords {
    /// It has none: a first start.
    None,
    /// It has some, sealed for these (as far as their headers can be read).
    SealedFor(BTreeSet<Fingerprint>),
}

/// The key under which all records are sealed.
pub struct RootKey {
    identity: Identity,
    recipient: Recipient,
    aes: Zeroizing<[u8; 32]>,
    hmac: Zeroizing<[u8; 32]>,
    fingerprint: Fingerprint,
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootKey").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl RootKey {
    /// A new key, for a store without records.
    pub fn generate() -> Result<Self, RootKeyError> {
        let mut aes = Zeroizing::new([0; 32]);
        getrandom::fill(aes.as_mut())
            .map_err(|source| RootKeyError::Random { reason: source.to_string() })?;
        Ok(Self::new(Identity::generate(), aes))
    }

    /// The key in `path`. Made, if the file is missing or blank and the store is new.
    pub fn load_or_create(
        path: &Path,
        records: impl FnOnce() -> StoredRecords,
    ) -> Result<Self, RootKeyError> {
        let place = Place::File(path.to_owned());
        let (state, found) = match read(path)? {
            Some(text) if is_blank(&text) => ("blank", true),
            Some(text) => return Self::parse(&place, &text),
            None => ("missing", false),
        };
        if let StoredRecords::SealedFor(fingerprints) = records() {
            return Err(lost(&place, state, &fingerprints));
        }
        let key = Self::generate()?;
        let write = if found { replace } else { create };
        write(path, &key.serialize())
            .map_err(|source| RootKeyError::Write { path: path.to_owned(), source })?;
        Ok(key)
    }

    /// Tells this key from all others, also from one with another AES key only; nothing can be
    /// learned from it.
    pub(crate) fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.serialize().as_bytes()).into()
    }

    /// Its fingerprint.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    pub(super) fn hmac(&self) -> &[u8; 32] {
        &self.hmac
    }

    fn new(identity: Identity, aes: Zeroizing<[u8; 32]>) -> Self {
        let recipient = identity.to_public();
        let text = identity.to_string();
        let mut hmac = Zeroizing::new([0; 32]);
        // 32 bytes are far below the 8,160 that HKDF-SHA256 can give
        let derived = Hkdf::<Sha256>::new(None, text.expose_secret().as_bytes())
            .expand(RECORD_HMAC_LABEL, hmac.as_mut());
        debug_assert!(derived.is_ok(), "HKDF-SHA256 gives 32 bytes");
        Self { fingerprint: Fingerprint::of(&recipient), identity, recipient, aes, hmac }
    }

    /// The key in this text, which stands in `place`.
    pub(crate) fn parse(place: &Place, text: &str) -> Result<Self, RootKeyError> {
        let malformed = |rule| RootKeyError::Malformed { place: place.clone(), rule };
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        let [identity, recipient, aes] = lines.as_slice() else {
            return Err(malformed(
                "three lines are needed: age identity, age recipient, AES-256 key in hex",
            ));
        };
        let identity: Identity = identity
            .parse()
            .map_err(|_reason| malformed("its first line is not an age identity"))?;
        if identity.to_public().to_string() != *recipient {
            return Err(malformed(
                "its second line is not the recipient of the identity in its first line",
            ));
        }
        let mut key = Zeroizing::new([0; 32]);
        hex::decode_to_slice(aes, key.as_mut())
            .map_err(|_reason| malformed("its third line is not 64 hex digits"))?;
        Ok(Self::new(identity, key))
    }

    /// The three lines.
    pub(crate) fn serialize(&self) -> Zeroizing<String> {
        let identity = self.identity.to_string();
        let aes = Zeroizing::new(hex::encode(*self.aes));
        let mut text = Zeroizing::new(String::with_capacity(256));
        for line in [identity.expose_secret(), self.recipient.to_string().as_str(), aes.as_str()] {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

/// What is said where a key must not be made.
pub(crate) fn lost(
    place: &Place,
    state: &'static str,
    fingerprints: &BTreeSet<Fingerprint>,
) -> RootKeyError {
    RootKeyError::Lost { place: place.clone(), state, needed: any_of(fingerprints) }
}

/// What is said of a key that opens none of the records, going by what their headers claim. Where
/// they claim nothing, the records must show it themselves.
pub(crate) fn foreign(
    place: &Place,
    key: &RootKey,
    records: &StoredRecords,
) -> Option<RootKeyError> {
    let StoredRecords::SealedFor(fingerprints) = records else { return None };
    let present = key.fingerprint();
    (!fingerprints.is_empty() && !fingerprints.contains(present)).then(|| RootKeyError::Foreign {
        place: place.clone(),
        present: present.clone(),
        needed: any_of(fingerprints),
    })
}

fn any_of(fingerprints: &BTreeSet<Fingerprint>) -> String {
    if fingerprints.is_empty() {
        return "unknown (their headers cannot be read)".to_owned();
    }
    let all: Vec<_> = fingerprints.iter().map(Fingerprint::to_string).collect();
    all.join(" or ")
}

/// `{}` is what VSecM's chart leaves for Safe to fill in.
pub(crate) fn is_blank(text: &str) -> bool {
    matches!(text.trim(), "" | "{}")
}
