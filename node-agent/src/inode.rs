//! Inode numbers that a successor process computes again, without a table.
//!
//! ```text
//!   62        32 31              2 1  0
//!   |   path   |     version      | kind |
//! ```
//!
//! The kernel keeps inodes across the death of this process, so the number of a file must not
//! depend on anything that dies with it. Each part says something even when the rest is forgotten:
//! the kind lets GETATTR of any number ever handed out be answered truthfully enough (a container
//! with a subPath could not restart otherwise), the path, which is relative to the version's folder,
//! finds what has that path in the version that is shown now. 63 bits, so that a number is also a
//! valid offset of readdir.
//!
//! The hash has a key of the volume's own, so nobody can choose keys of a secret whose numbers are
//! equal. By chance two of 1,000 paths of one version are in one volume of 4,000; then the later
//! one gets another number, and a successor that has forgotten the version may find the wrong
//! one of the two by it, if only one is left.

use sha2::{Digest, Sha256};
use vsecm_node_agent_api::volume::InodeKey;

/// The number of a volume's root, given by the protocol.
pub const ROOT: u64 = 1;

const KIND_BITS: u32 = 2;
const VERSION_BITS: u32 = 30;
const PATH_BITS: u32 = 31;

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A file.
    File,
    /// A symbolic link.
    Link,
}

impl Kind {
    /// The kind that stands in a number; 0 is never handed out.
    pub fn of(ino: u64) -> Option<Self> {
        match ino & ((1 << KIND_BITS) - 1) {
            1 => Some(Self::Folder),
            2 => Some(Self::File),
            3 => Some(Self::Link),
            _ => None,
        }
    }

    fn bits(self) -> u64 {
        match self {
            Self::Folder => 1,
            Self::File => 2,
            Self::Link => 3,
        }
    }
}

/// The part of a number that tells a path.
pub fn path_part(ino: u64) -> u64 {
    ino >> (KIND_BITS + VERSION_BITS)
}

/// The first eight bytes of a digest, as a number.
pub fn leading(digest: &[u8]) -> u64 {
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Computes the numbers of one volume.
#[derive(Clone, Debug)]
pub struct Numbers {
    seed: [u8; 32],
}

impl Numbers {
    /// Numbers of the volume with this key.
    pub fn new(key: InodeKey) -> Self {
        let seed =
            Sha256::new().chain_update(b"vsecm inode 2\0").chain_update(key.as_bytes()).finalize();
        Self { seed: seed.into() }
    }

    fn hash(&self, domain: u8, text: &[u8], salt: u32) -> u64 {
        let digest = Sha256::new()
            .chain_update(self.seed)
            .chain_update([domain])
            .chain_update(salt.to_be_bytes())
            .chain_update(text)
            .finalize();
        leading(&digest)
    }

    /// The number of what is at `path` in `version`. `salt` counts the paths that had to give way
    /// to others of the same version.
    pub fn number(&self, kind: Kind, version: &[u8], path: &str, salt: u32) -> u64 {
        let path = self.hash(b'n', path.as_bytes(), salt) >> (u64::BITS - PATH_BITS);
        let version = self.hash(b'v', version, 0) >> (u64::BITS - VERSION_BITS);
        // never the root's number: its version part would be 0
        let version = version.max(1);
        path << (KIND_BITS + VERSION_BITS) | version << KIND_BITS | kind.bits()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) const KEY: InodeKey = InodeKey::from_random([7; 16]);

    #[test]
    fn numbers_differ_by_volume_version_name_and_kind() {
        let of = |volume: &str, kind, version: &[u8], path: &str| {
            let key = volume.as_bytes()[0];
            Numbers::new(InodeKey::from_random([key; 16])).number(kind, version, path, 0)
        };
        let first = of("a", Kind::File, b"1", "x");
        assert_eq!(first, of("a", Kind::File, b"1", "x"));
        for other in [
            of("b", Kind::File, b"1", "x"),
            of("a", Kind::Link, b"1", "x"),
            of("a", Kind::File, b"2", "x"),
            of("a", Kind::File, b"1", "y"),
        ] {
            assert_ne!(first, other);
        }
    }

    proptest! {
        #[test]
        fn a_number_tells_its_kind_and_name_and_is_an_offset(version in prop::collection::vec(any::<u8>(), 0..16), name in ".{0,12}", salt in 0_u32..4) {
            let numbers = Numbers::new(KEY);
            for kind in [Kind::Folder, Kind::File, Kind::Link] {
                let number = numbers.number(kind, &version, &name, salt);
                prop_assert_eq!(Kind::of(number), Some(kind));
                prop_assert_eq!(path_part(number), path_part(numbers.number(kind, b"other", &name, salt)));
                prop_assert!(number > 2 && i64::try_from(number).is_ok());
            }
        }
    }
}
