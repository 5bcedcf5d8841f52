//! The root key and its file.
//!
//! Three lines as in VSecM: age identity, age recipient, AES-256 key in hex. Only the identity is
//! believed; the recipient is derived from it and a file that says another one is refused.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use age::{
    secrecy::ExposeSecret as _,
    x25519::{Identity, Recipient},
};
use hkdf::Hkdf;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// What the HMAC key of records is derived for: another purpose needs another label ([I11]).
const RECORD_HMAC_LABEL: &[u8] = b"vsecm.com safe record hmac v1";

/// Three lines have 202 bytes; anything much longer is no root key.
const MAX_FILE_BYTES: u64 = 4096;

/// Where a root key file cannot be used, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootKeyError {
    /// The file cannot be read.
    #[error("cannot read the root key file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the root key file {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The random source failed.
    #[error("cannot make a root key: no random bytes ({reason})")]
    Random {
        /// Why.
        reason: String,
    },
    /// Too many may read or write the file.
    #[error("the root key file {path} has mode {mode:04o} and owner {owner}: {rule}")]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its owner.
        owner: u32,
        /// What is asked for.
        rule: &'static str,
    },
    /// The file does not hold a root key.
    #[error("the root key file {path} is not a root key: {rule}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is asked for.
        rule: &'static str,
    },
    /// Sealed records are there, their key is not.
    #[error(
        "the root key file {path} is {state}, but the store holds records sealed for the root key \
         with fingerprint {needed}: put that key back (a new one is never made beside records)"
    )]
    Lost {
        /// The file.
        path: PathBuf,
        /// `missing` or `blank`.
        state: &'static str,
        /// The fingerprints that the records name.
        needed: String,
    },
}

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
        f.debug_struct("RootKey")
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

impl RootKey {
    /// A new key, for a store without records.
    pub fn generate() -> Result<Self, RootKeyError> {
        let mut aes = Zeroizing::new([0; 32]);
        getrandom::fill(aes.as_mut()).map_err(|source| RootKeyError::Random {
            reason: source.to_string(),
        })?;
        Ok(Self::new(Identity::generate(), aes))
    }

    /// The key in `path`. Made, if the file is missing or blank and the store is new.
    pub fn load_or_create(
        path: &Path,
        records: impl FnOnce() -> StoredRecords,
    ) -> Result<Self, RootKeyError> {
        let (state, found) = match read(path)? {
            Some(text) if is_blank(&text) => ("blank", true),
            Some(text) => return Self::parse(path, &text),
            None => ("missing", false),
        };
        if let StoredRecords::SealedFor(fingerprints) = records() {
            let needed: Vec<_> = fingerprints.iter().map(Fingerprint::to_string).collect();
            return Err(RootKeyError::Lost {
                path: path.to_owned(),
                state,
                needed: if needed.is_empty() {
                    "unknown (their headers cannot be read)".to_owned()
                } else {
                    needed.join(" or ")
                },
            });
        }
        let key = Self::generate()?;
        let write = if found { replace } else { create };
        write(path, &key.serialize()).map_err(|source| RootKeyError::Write {
            path: path.to_owned(),
            source,
        })?;
        Ok(key)
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
        Self {
            fingerprint: Fingerprint::of(&recipient),
            identity,
            recipient,
            aes,
            hmac,
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, RootKeyError> {
        let malformed = |rule| RootKeyError::Malformed {
            path: path.to_owned(),
            rule,
        };
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .collect();
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

    fn serialize(&self) -> Zeroizing<String> {
        let identity = self.identity.to_string();
        let aes = Zeroizing::new(hex::encode(*self.aes));
        let mut text = Zeroizing::new(String::with_capacity(256));
        for line in [
            identity.expose_secret(),
            self.recipient.to_string().as_str(),
            aes.as_str(),
        ] {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

/// `{}` is what VSecM's chart leaves for Safe to fill in.
fn is_blank(text: &str) -> bool {
    matches!(text.trim(), "" | "{}")
}

/// The file's text, if there is a file, after its permissions were checked on the open descriptor.
fn read(path: &Path) -> Result<Option<Zeroizing<String>>, RootKeyError> {
    let failed = |source| RootKeyError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(RootKeyError::Malformed {
            path: path.to_owned(),
            rule: "it is not a file",
        });
    }
    check_permissions(
        path,
        metadata.mode() & 0o7777,
        metadata.uid(),
        nix::unistd::geteuid().as_raw(),
    )?;
    // one allocation: a growing buffer would leave copies of the key behind
    let mut text = Zeroizing::new(String::with_capacity(8192));
    file.take(MAX_FILE_BYTES)
        .read_to_string(&mut text)
        .map_err(failed)?;
    Ok(Some(text))
}

/// Nobody else may read the key, and only its owner may write it.
///
/// A Secret that Kubernetes mounts for a user who is not root belongs to root and is read by way
/// of its group (`fsGroup`): there, and only there, the group may read.
fn check_permissions(path: &Path, mode: u32, owner: u32, us: u32) -> Result<(), RootKeyError> {
    let refused = |rule| {
        Err(RootKeyError::Permissions {
            path: path.to_owned(),
            mode,
            owner,
            rule,
        })
    };
    if owner != us && owner != 0 {
        return refused("it must belong to Safe's own user or to root");
    }
    if mode & 0o022 != 0 {
        return refused("only its owner may write it (chmod 600)");
    }
    if mode & 0o007 != 0 {
        return refused("others must not read it (chmod 600)");
    }
    if mode & 0o040 != 0 && owner == us {
        return refused("its group must not read it (chmod 600)");
    }
    Ok(())
}

/// A new file that appears under its name only when it is whole, and replaces no other.
fn create(path: &Path, text: &str) -> io::Result<()> {
    let temporary = write_temporary(path, text)?;
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary)?;
    linked?;
    sync_folder(path)
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let temporary = write_temporary(path, text)?;
    fs::rename(&temporary, path)?;
    sync_folder(path)
}

fn write_temporary(path: &Path, text: &str) -> io::Result<PathBuf> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _gone => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(temporary)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _none => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn beside_records() -> StoredRecords {
        let key = RootKey::generate().unwrap();
        StoredRecords::SealedFor([key.fingerprint().clone()].into())
    }

    fn write(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn the_first_start_makes_a_key_that_the_next_one_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.txt");
        let made = RootKey::load_or_create(&path, || StoredRecords::None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let read = RootKey::load_or_create(&path, beside_records).unwrap();
        assert_eq!(made.fingerprint(), read.fingerprint());
        assert_eq!(made.hmac(), read.hmac());
        assert_eq!(
            fs::read_to_string(&path).unwrap().lines().count(),
            3,
            "VSecM's form"
        );
    }

    #[test]
    fn a_blank_or_missing_key_beside_records_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.txt");
        let records = beside_records();
        let StoredRecords::SealedFor(needed) = &records else {
            unreachable!()
        };
        for blank in [None, Some(""), Some("{}"), Some(" {}\n")] {
            if let Some(text) = blank {
                write(&path, text);
            }
            let error = RootKey::load_or_create(&path, || records.clone()).unwrap_err();
            assert!(matches!(error, RootKeyError::Lost { .. }), "{error}");
            let needed = needed.first().unwrap().to_string();
            assert!(error.to_string().contains(&needed), "{error}");
            assert_eq!(fs::read_to_string(&path).ok().as_deref(), blank);
        }
    }

    #[test]
    fn a_blank_key_without_records_is_filled_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.txt");
        write(&path, "{}");
        let made = RootKey::load_or_create(&path, || StoredRecords::None).unwrap();
        let read = RootKey::load_or_create(&path, || StoredRecords::None).unwrap();
        assert_eq!(made.fingerprint(), read.fingerprint());
    }

    #[test]
    fn only_a_recipient_that_belongs_to_the_identity_is_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.txt");
        let ours = RootKey::generate().unwrap().serialize();
        let theirs = RootKey::generate().unwrap().serialize();
        let lines: Vec<&str> = ours.lines().collect();
        let foreign = theirs.lines().nth(1).unwrap();
        for bad in [
            format!("{}\n{foreign}\n{}\n", lines[0], lines[2]),
            format!("{}\n{}\n", lines[0], lines[1]),
            format!("{}\n{}\nabc\n", lines[0], lines[1]),
            format!("{}\n{}\n{}\nmore\n", lines[0], lines[1], lines[2]),
            "not a key\nat\nall\n".to_owned(),
        ] {
            write(&path, &bad);
            let error = RootKey::load_or_create(&path, || StoredRecords::None).unwrap_err();
            assert!(matches!(error, RootKeyError::Malformed { .. }), "{error}");
            assert!(!format!("{error:?}").contains(lines[0]));
        }
        write(&path, &ours);
        assert!(RootKey::load_or_create(&path, || StoredRecords::None).is_ok());
    }

    #[test]
    fn a_key_that_others_can_read_or_write_is_refused() {
        let check = |mode, owner, us| check_permissions(Path::new("key"), mode, owner, us).is_ok();
        for mode in [0o600, 0o400] {
            assert!(check(mode, 1000, 1000));
        }
        for mode in [0o644, 0o640, 0o604, 0o620, 0o602, 0o660, 0o666, 0o601] {
            assert!(!check(mode, 1000, 1000), "{mode:o}");
        }
        assert!(
            check(0o440, 0, 1000),
            "a Secret mounted with fsGroup is read by its group"
        );
        assert!(!check(0o444, 0, 1000));
        assert!(!check(0o600, 1001, 1000), "another user's file");
    }
}
