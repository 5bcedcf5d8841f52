//! Inode numbers that a successor process computes again, without a table.
//!
//! ```text
//!   62        40 39              2 1  0
//!   |   name   |     version      | kind |
//! ```
//!
//! The kernel keeps inodes across the death of this process, so the number of a file must not
//! depend on anything that dies with it. Each part says something even when the rest is forgotten:
//! the kind lets GETATTR of any number ever handed out be answered truthfully enough (a container
//! with a subPath could not restart otherwise), the name finds the file of that name in the version
//! that is shown now. 63 bits, so that a number is also a valid offset of readdir.

use sha2::{Digest, Sha256};

/// The number of a volume's root, given by the protocol.
pub const ROOT: u64 = 1;

const KIND_BITS: u32 = 2;
const VERSION_BITS: u32 = 38;
const NAME_BITS: u32 = 23;

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

/// The part of a number that tells a file's name.
pub fn name_part(ino: u64) -> u64 {
    ino >> (KIND_BITS + VERSION_BITS)
}

/// Computes the numbers of one volume.
#[derive(Clone, Debug)]
pub struct Numbers {
    seed: [u8; 32],
}

impl Numbers {
    /// Numbers for the volume with this id.
    pub fn new(volume: &str) -> Self {
        let seed = Sha256::new().chain_update(b"vsecm inode 1\0").chain_update(volume).finalize();
        Self { seed: seed.into() }
    }

    fn hash(&self, domain: u8, text: &[u8], salt: u32) -> u64 {
        let digest = Sha256::new()
            .chain_update(self.seed)
            .chain_update([domain])
            .chain_update(salt.to_be_bytes())
            .chain_update(text)
            .finalize();
        digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// The number of `name` in `version`. `salt` counts the names that had to give way to others
    /// of the same version.
    pub fn number(&self, kind: Kind, version: &[u8], name: &str, salt: u32) -> u64 {
        let name = self.hash(b'n', name.as_bytes(), salt) >> (u64::BITS - NAME_BITS);
        let version = self.hash(b'v', version, 0) >> (u64::BITS - VERSION_BITS);
        // never the root's number: its version part would be 0
        let version = version.max(1);
        name << (KIND_BITS + VERSION_BITS) | version << KIND_BITS | kind.bits()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_differ_by_volume_version_name_and_kind() {
        let of = |volume: &str, kind, version: &[u8], name: &str| {
            Numbers::new(volume).number(kind, version, name, 0)
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
            let numbers = Numbers::new("v");
            for kind in [Kind::Folder, Kind::File, Kind::Link] {
                let number = numbers.number(kind, &version, &name, salt);
                prop_assert_eq!(Kind::of(number), Some(kind));
                prop_assert_eq!(name_part(number), name_part(numbers.number(kind, b"other", &name, salt)));
                prop_assert!(number > 2 && i64::try_from(number).is_ok());
            }
        }
    }
}
