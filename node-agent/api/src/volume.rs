//! A volume, its pod and its options. All types are parsed at the door and stay valid.

use std::fmt;

use serde::{Deserialize, Serialize};

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
    /// the versioned folders, which start with `..`.
    FileName,
    |text| {
        bounded("file name", text, 255)?;
        if text.contains(['/', '\0']) || text == "." || text.starts_with("..") {
            let rule = "one path component that is not '.' and does not start with '..'";
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
#[serde(deny_unknown_fields)]
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

/// Permission bits of a file: read bits only, as the volume is read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct FileMode(u16);

impl FileMode {
    /// The bits.
    pub fn bits(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for FileMode {
    type Error = ParseError;

    fn try_from(bits: u16) -> Result<Self, ParseError> {
        if bits == 0 || bits & !0o777 != 0 {
            let rule = "octal permission bits between 0001 and 0777";
            return Err(malformed("file mode", &format!("{bits:04o}"), rule));
        }
        Ok(Self(bits))
    }
}

impl From<FileMode> for u16 {
    fn from(mode: FileMode) -> Self {
        mode.0
    }
}

/// What the pod's author asked for in `volumeAttributes`, and the pod's `fsGroup`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeOptions {
    /// Attribute `layout`.
    pub layout: Layout,
    /// Attribute `document`: the name of the file that holds the whole document.
    pub document: FileName,
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

/// All that a restarted process needs to know of a volume. It has no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeRecord {
    /// The volume.
    pub volume: VolumeId,
    /// Its pod.
    pub pod: PodRef,
    /// Its options.
    pub options: VolumeOptions,
    /// The target path below the kubelet's folder, `pods/<uid>/volumes/kubernetes.io~csi/<name>/mount`.
    pub target: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_name_is_one_component_below_255_bytes() {
        for bad in ["", ".", "..", "..data", "a/b", "a\0b"] {
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
    fn a_mode_has_permission_bits_only() {
        assert!(FileMode::try_from(0o4755).is_err());
        assert!(FileMode::try_from(0).is_err());
        assert_eq!(FileMode::try_from(0o440).map(FileMode::bits), Ok(0o440));
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
