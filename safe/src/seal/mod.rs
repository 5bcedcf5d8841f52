//! Record to sealed record and back, under the root key.
//!
//! A sealed record is an age file for the root key's X25519 recipient: the stock `age` tool opens
//! it. Inside stands the record and an HMAC over it, so who knows only the recipient cannot forge
//! one. Nothing outside the seal is believed; the header's own stanza with format version and
//! fingerprint only helps to *say* that a key is the wrong one.
//!
//! By hand: `head -1 key.txt | age -d -i - records/NAMESPACE/NAME.age`.

mod age;
mod key;
mod record;

pub(crate) use self::key::{foreign, is_blank, lost, read as read_key_file};
pub use self::{
    age::{OpenError, Peek, SealError, Sealer, peek},
    key::{Fingerprint, ITEM, Place, RootKey, RootKeyError, StoredRecords},
    record::DecodeError,
};

/// Decodes the inside of a record and encodes it again: to a fuzzer (`tests/fuzz`), which has to
/// be another crate, this shows whether a record has one encoding only. Whoever calls it has the
/// plain text already and gets nothing else.
#[doc(hidden)]
pub fn encoded_again(
    plain: &[u8],
    hmac: &[u8; 32],
) -> Result<zeroize::Zeroizing<Vec<u8>>, DecodeError> {
    let (key, entry) = record::decode(plain, hmac)?;
    Ok(record::encode(&key, &entry, hmac))
}
