//! The seal: an age file with one X25519 recipient, and a stanza that names format and key.
//!
//! The stanza is of our own type; age tools skip stanzas that they do not know, so the file still
//! opens with `age -d`. It is a hint for people and nothing more: what counts is inside.

use std::{
    cell::RefCell,
    collections::HashSet,
    io::{self, Read as _, Write as _},
    iter,
};

use age::{Decryptor, Encryptor, Identity, Recipient};
use age_core::format::{FileKey, Stanza};
use vsecm_safe_api::name::SecretKey;
use zeroize::Zeroizing;

use super::{
    key::{Fingerprint, RootKey},
    record::{self, DecodeError},
};
use crate::entry::Entry;

/// Type of our stanza.
const STANZA: &str = "vsecm.com/record";
/// Version of the format, the stanza's first argument; the second is the fingerprint.
const FORMAT: &str = "1";

/// Why a record cannot be sealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// age refuses the recipients; with ours alone this does not happen.
    #[error("age cannot encrypt to the root key")]
    Recipients(#[source] age::EncryptError),
    /// Writing to memory failed.
    #[error("age cannot write the sealed record")]
    Write(#[source] io::Error),
}

/// Why a sealed record does not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another root key is needed.
    #[error("it is sealed for the root key {needed}, and the root key here is {present}")]
    WrongKey {
        /// The key that it names.
        needed: Fingerprint,
        /// The key that is there.
        present: Fingerprint,
    },
    /// It is of a later version of Safe.
    #[error("it has format {0}, which this Safe does not know")]
    Format(String),
    /// age cannot open it.
    #[error("age cannot open it: it is damaged, or not for this root key")]
    Seal(#[source] age::DecryptError),
    /// Its content cannot be decrypted.
    #[error("its content is damaged")]
    Content(#[source] io::Error),
    /// What is inside is refused.
    #[error("its content is refused")]
    Record(#[source] DecodeError),
}

/// What a header says, for people. `None` where there is no header of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peek {
    /// Version of the format.
    pub format: String,
    /// The key it is sealed for.
    pub fingerprint: Fingerprint,
}

/// Seals and opens records under one root key.
#[derive(Debug)]
pub struct Sealer(RootKey);

impl Sealer {
    /// With this key.
    pub fn new(key: RootKey) -> Self {
        Self(key)
    }

    /// Which key it is.
    pub fn fingerprint(&self) -> &Fingerprint {
        self.0.fingerprint()
    }

    /// The bytes of a record's file.
    pub fn seal(&self, key: &SecretKey, entry: &Entry) -> Result<Vec<u8>, SealError> {
        let plain = record::encode(key, entry, self.0.hmac());
        let marked = Marked(&self.0);
        let encryptor = Encryptor::with_recipients(iter::once(&marked as &dyn Recipient))
            .map_err(SealError::Recipients)?;
        let mut sealed = Vec::with_capacity(plain.len() + 1024);
        let write = |sealed: &mut Vec<u8>| -> io::Result<()> {
            let mut writer = encryptor.wrap_output(sealed)?;
            writer.write_all(&plain)?;
            writer.finish()?;
            Ok(())
        };
        write(&mut sealed).map_err(SealError::Write)?;
        Ok(sealed)
    }

    /// What was sealed.
    pub fn open(&self, sealed: &[u8]) -> Result<(SecretKey, Entry), OpenError> {
        let marked = Marked(&self.0);
        let decrypted = Decryptor::new_buffered(sealed)
            .and_then(|decryptor| decryptor.decrypt(iter::once(&marked as &dyn Identity)));
        let mut reader = match decrypted {
            Ok(reader) => reader,
            Err(source) => return Err(self.explain(sealed, source)),
        };
        // the plain text is shorter than the sealed one: the buffer does not grow
        let mut plain = Zeroizing::new(Vec::with_capacity(sealed.len()));
        reader.read_to_end(&mut plain).map_err(OpenError::Content)?;
        record::decode(&plain, self.0.hmac()).map_err(OpenError::Record)
    }

    fn explain(&self, sealed: &[u8], source: age::DecryptError) -> OpenError {
        match peek(sealed) {
            Some(peek) if peek.format != FORMAT => OpenError::Format(peek.format),
            Some(peek) if peek.fingerprint != *self.fingerprint() => OpenError::WrongKey {
                needed: peek.fingerprint,
                present: self.fingerprint().clone(),
            },
            _ours => OpenError::Seal(source),
        }
    }
}

/// Reads the header's hint without any key.
pub fn peek(sealed: &[u8]) -> Option<Peek> {
    let reader = HintReader(RefCell::new(None));
    let decryptor = Decryptor::new_buffered(sealed).ok()?;
    // never opens: the reader has no key
    let refused = decryptor.decrypt(iter::once(&reader as &dyn Identity));
    debug_assert!(refused.is_err(), "nothing opens without a key");
    reader.0.into_inner()
}

fn hint(stanza: &Stanza) -> Option<Peek> {
    match stanza.args.as_slice() {
        [format, fingerprint, ..] if stanza.tag == STANZA => Some(Peek {
            format: format.chars().take(16).collect(),
            fingerprint: Fingerprint::claimed(fingerprint)?,
        }),
        _foreign => None,
    }
}

struct HintReader(RefCell<Option<Peek>>);

impl Identity for HintReader {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, age::DecryptError>> {
        if let Some(hint) = hint(stanza) {
            self.0.replace(Some(hint));
        }
        None
    }
}

/// The root key, with our stanza beside its own.
struct Marked<'a>(&'a RootKey);

impl Recipient for Marked<'_> {
    fn wrap_file_key(
        &self,
        file_key: &FileKey,
    ) -> Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        let (mut stanzas, labels) = self.0.recipient().wrap_file_key(file_key)?;
        stanzas.push(Stanza {
            tag: STANZA.to_owned(),
            args: vec![FORMAT.to_owned(), self.0.fingerprint().to_string()],
            body: Vec::new(),
        });
        Ok((stanzas, labels))
    }
}

impl Identity for Marked<'_> {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, age::DecryptError>> {
        self.0.identity().unwrap_stanza(stanza)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::seal::record::tests::{any_entry, any_key};

    fn sealer() -> Sealer {
        Sealer::new(RootKey::generate().unwrap())
    }

    #[test]
    fn a_wrong_key_is_said() {
        let (ours, theirs) = (sealer(), sealer());
        let key = SecretKey::parse("default", "db").unwrap();
        let entry = Entry::Deleted {
            revision: vsecm_safe_api::position::Revision(1),
            at: time::OffsetDateTime::UNIX_EPOCH,
        };
        let sealed = theirs.seal(&key, &entry).unwrap();
        let refusal = ours.open(&sealed).unwrap_err();
        assert!(
            matches!(&refusal, OpenError::WrongKey { needed, .. } if needed == theirs.fingerprint())
        );
        assert_eq!(peek(&sealed).unwrap().fingerprint, *theirs.fingerprint());
    }

    #[test]
    fn a_record_sealed_by_one_who_knows_only_the_recipient_is_refused() {
        let ours = sealer();
        let forged = age::encrypt(ours.0.recipient(), b"vsecm safe record 1\n and more").unwrap();
        let refusal = ours.open(&forged).unwrap_err();
        assert!(matches!(refusal, OpenError::Record(DecodeError::Forged)), "{refusal:?}");
    }

    #[test]
    fn a_sealed_record_is_a_plain_age_file() {
        let ours = sealer();
        let key = SecretKey::parse("default", "db").unwrap();
        let entry = Entry::Deleted {
            revision: vsecm_safe_api::position::Revision(1),
            at: time::OffsetDateTime::UNIX_EPOCH,
        };
        let sealed = ours.seal(&key, &entry).unwrap();
        let plain = age::decrypt(ours.0.identity(), &sealed).unwrap();
        assert!(plain.starts_with(b"vsecm safe record 1\n"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn what_was_sealed_opens(key in any_key(), entry in any_entry()) {
            let ours = sealer();
            let (key_back, entry_back) = ours.open(&ours.seal(&key, &entry).unwrap()).unwrap();
            prop_assert_eq!(key_back, key);
            prop_assert_eq!(format!("{entry_back:?}"), format!("{entry:?}"));
        }

        #[test]
        fn a_bit_flip_or_a_cut_is_an_error_and_never_a_panic(
            key in any_key(), entry in any_entry(), at in any::<prop::sample::Index>(), bit in 0..8_u8,
        ) {
            let ours = sealer();
            let sealed = ours.seal(&key, &entry).unwrap();
            let at = at.index(sealed.len());
            prop_assert!(ours.open(&sealed[..at]).is_err());
            let mut changed = sealed;
            changed[at] ^= 1 << bit;
            prop_assert!(ours.open(&changed).is_err());
        }

        #[test]
        fn bytes_of_any_kind_are_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(sealer().open(&bytes).is_err());
            prop_assert_eq!(peek(&bytes), None);
        }
    }
}
