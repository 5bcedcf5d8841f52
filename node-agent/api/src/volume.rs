//! A volume, its pod and its options. All types are parsed at the door and stay valid.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::items::Items;

/// Why a text is not one of the nouns of this module.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseError {
    /// The text is empty.
    #[error("{what} is empty")]
    Empty {
        /// The noun that was expected.
        what: &'static str,
    },
    /// The text is longer than the noun allows.
    #[error("{what} has {length} bytes, at most {limit} are allowed")]
    TooLong {
        /// The noun that was expected.
        what: &'static str,
        /// Bytes given.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The text holds a character, or is a word, that the noun does not allow.
    #[error("{what} {text:?} is not allowed: {rule}")]
    Malformed {
        /// The noun that was expected.
        what: &'static str,
        /// The text, shortened to 80 characters.
        text: String,
        /// The rule in words.
        rule: &'static str,
    },
}

fn malformed(what: &'static str, text: &str, rule: &'static str) -> ParseError {
    ParseError::Malformed { what, text: text.chars().take(80).collect(), rule }
}

fn bounded(what: &'static str, text: &str, limit: usize) -> Result<(), ParseError> {
    match text.len() {
        0 => Err(ParseError::Empty { what }),
        length if length > limit => Err(ParseError::TooLong { what, length, limit }),
        _ => Ok(()),
    }
}

fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

macro_rules! noun {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseError;

            fn try_from(text: String) -> Result<Self, ParseError> {
                let check: fn(&str) -> Result<(), ParseError> = $check;
                check(&text)?;
                Ok(Self(text))
            }
        }

        impl std::str::FromStr for $name {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<Self, ParseError> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(noun: $name) -> Self {
                noun.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

noun!(
    /// The CSI volume id: `csi-` and 64 hex digits from the kubelet; here any plain word.
    VolumeId,
    |text| {
        bounded("volume id", text, 128)?;
        if !is_plain(text) || text.starts_with('.') {
            let rule = "letters, digits, '.', '_' and '-', not starting with '.'";
            return Err(malformed("volume id", text, rule));
        }
        Ok(())
    }
);

noun!(
    /// A DNS label or subdomain as Kubernetes names pods, namespaces and service accounts.
    ObjectName,
    |text| {
        bounded("object name", text, 253)?;
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let label = |l: &str| {
            !l.is_empty() && !l.starts_with('-') && !l.ends_with('-') && l.bytes().all(allowed)
        };
        if !text.split('.').all(label) {
            let rule = "lower-case letters, digits and '-', in labels parted by '.'";
            return Err(malformed("object name", text, rule));
        }
        Ok(())
    }
);

noun!(
    /// A pod's uid as it stands in the kubelet's paths.
    PodUid,
    |text| {
        bounded("pod uid", text, 64)?;
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(malformed("pod uid", text, "letters, digits and '-'"));
        }
        Ok(())
    }
);

noun!(
    /// The name of a file that a volume shows: one path component that cannot be mistaken for
    /// the versioned folders, which start with `..`, and that a terminal shows as it is.
    FileName,
    |text| {
        bounded("file name", text, 255)?;
        let is_strange = |c: char| c == '/' || c.is_control();
        if text.contains(is_strange) || text == "." || text.starts_with("..") {
            let rule = "one path component without control characters that is not '.' and does not start with '..'";
            return Err(malformed("file name", text, rule));
        }
        Ok(())
    }
);

noun!(
    /// The folder of one version below the volume's root, `..` and a plain word.
    ///
    /// The pattern is strict because csi works with this name on a tree that it does not serve.
    VersionDir,
    |text| {
        bounded("version folder", text, 66)?;
        let rule = "'..', then letters, digits, '_' or '-', and neither '..data' nor '..data_tmp'";
        let Some(word) = text.strip_prefix("..") else {
            return Err(malformed("version folder", text, rule));
        };
        if word.is_empty() || word.contains('.') || !is_plain(word) || word.starts_with("data") {
            return Err(malformed("version folder", text, rule));
        }
        Ok(())
    }
);

/// The pod a volume belongs to, as the kubelet names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PodRef {
    /// Namespace.
    pub namespace: ObjectName,
    /// Name.
    pub name: ObjectName,
    /// Uid.
    pub uid: PodUid,
    /// Service account.
    pub service_account: ObjectName,
}

/// Which files a volume shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// One file per top-level key of the document, and the document.
    #[default]
    Files,
    /// The document only.
    Document,
}

/// Whether the volume waits for its secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// Ready only once the secret exists ([I3]).
    #[default]
    Required,
    /// Ready at once, empty until the secret exists.
    Optional,
}

/// What happens to the files when SPIRE takes the pod's identity away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnWithdraw {
    /// They stay, without updates.
    #[default]
    Keep,
    /// They go at once.
    Revoke,
}

/// Whether each open of a file is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Audit {
    /// Opens cost no request, and work while node-agent is away.
    #[default]
    Off,
    /// Each open is a line in node-agent's audit log.
    Opens,
}

/// What becomes of what is held of an older version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnRotate {
    /// subPath binds show the new content after a grace; other descriptors keep their version.
    #[default]
    Follow,
    /// All keep their version.
    Keep,
    /// Nothing older can be read any more.
    Revoke,
}

/// Permission bits of a file: read and execute bits only, as the volume is read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct FileMode(u16);

/// Why something is no [`FileMode`].
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ModeError {
    /// Not three or four octal digits, or no bit at all.
    #[error("a mode is three or four octal digits, \"0001\" to \"0555\"")]
    Shape,
    /// Bits that let someone write.
    #[error("a mode has no write bits, as the volume is read-only")]
    Write,
    /// setuid, setgid, sticky.
    #[error("a mode has none of the bits setuid, setgid and sticky")]
    Special,
}

impl FileMode {
    /// The bits.
    pub fn bits(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for FileMode {
    type Error = ModeError;

    fn try_from(bits: u16) -> Result<Self, ModeError> {
        match bits {
            0 => Err(ModeError::Shape),
            bits if bits & !0o777 != 0 => Err(ModeError::Special),
            bits if bits & 0o222 != 0 => Err(ModeError::Write),
            bits => Ok(Self(bits)),
        }
    }
}

impl FromStr for FileMode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        let octal = matches!(text.len(), 3 | 4) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let bits = u16::from_str_radix(text, 8).ok().filter(|_| octal);
        bits.ok_or(ModeError::Shape)?.try_into()
    }
}

impl From<FileMode> for u16 {
    fn from(mode: FileMode) -> Self {
        mode.0
    }
}

/// What the pod's author asked for in `volumeAttributes`, and the pod's `fsGroup`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VolumeOptions {
    /// Attribute `layout`.
    pub layout: Layout,
    /// Attribute `document`: the name of the file that holds the whole document.
    pub document: FileName,
    /// Attribute `items`: if there are any, they are all that is shown.
    pub items: Items,
    /// Attribute `mode`, or the default (0444; 0440 with a group).
    pub mode: FileMode,
    /// Attribute `optional`.
    pub gate: Gate,
    /// Attribute `onWithdraw`.
    pub on_withdraw: OnWithdraw,
    /// Attribute `audit`.
    pub audit: Audit,
    /// Attribute `onRotate`.
    pub on_rotate: OnRotate,
    /// `fsGroup` of the pod: the group of files and folders.
    pub group: Option<u32>,
}

/// What a volume's inode numbers are derived from. Whoever does not know it cannot choose names
/// whose numbers are equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InodeKey([u8; 16]);

impl InodeKey {
    /// A key of random bytes.
    pub const fn from_random(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl TryFrom<String> for InodeKey {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        let is_hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u128::from_str_radix(&text, 16).ok().filter(|_| is_hex);
        let rule = "32 hex digits";
        let malformed = ParseError::Malformed { what: "inode key", text: String::new(), rule };
        number.map(|number| Self(number.to_be_bytes())).ok_or(malformed)
    }
}

impl From<InodeKey> for String {
    fn from(key: InodeKey) -> Self {
        format!("{:032x}", u128::from_be_bytes(key.0))
    }
}

impl fmt::Debug for InodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InodeKey(..)")
    }
}

/// All that a restarted process needs to know of a volume. It has no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// The volume.
    pub volume: VolumeId,
    /// Its pod.
    pub pod: PodRef,
    /// Its options.
    pub options: VolumeOptions,
    /// The target path below the kubelet's folder, `pods/<uid>/volumes/kubernetes.io~csi/<name>/mount`.
    pub target: String,
    /// Made at the first publish; the volume keeps the one that it was served with.
    pub inode_key: InodeKey,
}

impl VolumeRecord {
    /// Whether both ask for the same. The key is not asked for: each publish brings a new one.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        let Self { volume, pod, options, target, inode_key: _ } = self;
        (volume, pod, options, target) == (&other.volume, &other.pod, &other.options, &other.target)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_name_is_one_component_below_255_bytes() {
        for bad in ["", ".", "..", "..data", "a/b", "a\0b", "a\nb", "\u{1b}[1m", "\u{7f}", "\u{85}"]
        {
            assert!(bad.parse::<FileName>().is_err(), "{bad:?} must be refused");
        }
        assert!("x".repeat(256).parse::<FileName>().is_err());
        for good in ["a", ".hidden", "secrets.json", "ключ", "a b"] {
            assert!(good.parse::<FileName>().is_ok(), "{good:?} must be accepted");
        }
    }

    #[test]
    fn a_version_folder_is_never_the_data_link() {
        for bad in ["..", "..data", "..data_tmp", "..a/b", "..a.b", "v1", ".v1", "...v"] {
            assert!(bad.parse::<VersionDir>().is_err(), "{bad:?} must be refused");
        }
        for good in ["..1", "..v-12_a"] {
            assert!(good.parse::<VersionDir>().is_ok(), "{good:?} must be accepted");
        }
    }

    #[test]
    fn a_volume_id_is_a_plain_word() {
        for bad in ["", "..", "a/b", ".a", "a b"] {
            assert!(bad.parse::<VolumeId>().is_err(), "{bad:?} must be refused");
        }
        assert!("csi-0123abc".parse::<VolumeId>().is_ok());
    }

    #[test]
    fn a_mode_has_read_and_execute_bits_only() {
        let parse = |text: &str| text.parse::<FileMode>().map(FileMode::bits);
        assert_eq!(parse("0555"), Ok(0o555));
        assert_eq!(parse("440"), Ok(0o440));
        for text in ["", "0", "000", "0888", "00444", "+44", "0o444"] {
            assert_eq!(parse(text), Err(ModeError::Shape), "{text:?}");
        }
        assert_eq!(parse("0644"), Err(ModeError::Write));
        assert_eq!(parse("0002"), Err(ModeError::Write));
        for text in ["1444", "2444", "4555", "7777"] {
            assert_eq!(parse(text), Err(ModeError::Special), "{text:?}");
        }
    }

    #[test]
    fn an_inode_key_survives_json_and_is_not_shown() {
        let key = InodeKey::from_random([0xab; 16]);
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(json, format!("\"{}\"", "ab".repeat(16)));
        assert_eq!(serde_json::from_str::<InodeKey>(&json).unwrap(), key);
        assert!(!format!("{key:?}").contains("ab"));
        for bad in ["", "ab", &"x".repeat(32), &format!("+{}", "a".repeat(31))] {
            assert!(InodeKey::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn names_survive_json(text in "\\PC{1,40}") {
            if let Ok(name) = text.parse::<FileName>() {
                let json = serde_json::to_string(&name).unwrap();
                prop_assert_eq!(serde_json::from_str::<FileName>(&json).unwrap(), name);
            }
        }
    }
}
