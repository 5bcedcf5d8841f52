//! What this kernel offers beyond the floor, and what is pretended that it does not.

use std::{fmt, str::FromStr};

/// Something that newer kernels have. Each is done without where it is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// `FUSE_NOTIFY_RESEND` (Linux 6.9): a successor gets the requests that its predecessor had taken.
    Resend,
    /// `FUSE_NOTIFY_INC_EPOCH` (Linux 6.16): all names are looked up anew at once.
    IncEpoch,
    /// `FUSE_NO_EXPORT_SUPPORT` (Linux 6.9): there are no file handles, which would pass by the mount.
    NoExportSupport,
    /// `FUSE_ALLOW_IDMAP` (Linux 6.12): pods with `hostUsers: false` can have volumes.
    Idmap,
}

impl Feature {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Resend, Self::IncEpoch, Self::NoExportSupport, Self::Idmap];

    /// As metrics, logs and flags name it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Resend => "resend",
            Self::IncEpoch => "inc-epoch",
            Self::NoExportSupport => "no-export-support",
            Self::Idmap => "idmap",
        }
    }

    /// What is different without it, in words.
    pub fn without(self) -> &'static str {
        match self {
            Self::Resend => {
                "what a killed node-agent had taken is lost: a reader that waits for it is freed by \
                 an abort of its volume after 10 s, and its pod has to be restarted"
            }
            Self::IncEpoch => "a successor tells the kernel name by name",
            Self::NoExportSupport => {
                "processes with CAP_DAC_READ_SEARCH can open files of a volume that they see by handle"
            }
            Self::Idmap => "pods with hostUsers: false cannot have volumes",
        }
    }
}

/// A set of features.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Features(u8);

impl Features {
    /// With one more.
    #[must_use]
    pub fn with(self, feature: Feature) -> Self {
        Self(self.0 | 1 << feature as u8)
    }

    /// Those that are not in `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether it is in the set.
    pub fn has(self, feature: Feature) -> bool {
        self.0 & 1 << feature as u8 != 0
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Feature::ALL.into_iter().filter(|feature| self.has(*feature));
        f.debug_set().entries(names.map(Feature::label)).finish()
    }
}

/// A word that names no feature.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is none of no-resend, no-inc-epoch, no-export-support, no-idmap")]
pub struct NoFeature(String);

/// The features that `--pretend-kernel` takes away: `no-resend,no-inc-epoch`. A feature that is
/// called "no" something is taken away by its own name.
impl FromStr for Features {
    type Err = NoFeature;

    fn from_str(text: &str) -> Result<Self, NoFeature> {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        words.map(taken_away).try_fold(Self::default(), |all, one| Ok(all.with(one?)))
    }
}

fn taken_away(word: &str) -> Result<Feature, NoFeature> {
    let is_it = |feature: &Feature| {
        let label = feature.label();
        if label.starts_with("no-") {
            word == label
        } else {
            word.strip_prefix("no-") == Some(label)
        }
    };
    Feature::ALL.into_iter().find(is_it).ok_or_else(|| NoFeature(word.to_owned()))
}

/// The oldest Linux that has all calls that cannot be done without.
pub const FLOOR: (u32, u32) = (5, 15);

/// Major and minor number of a release as `uname` says it.
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_taken_away_by_their_words() {
        let all: Features = "no-resend, no-inc-epoch,no-export-support,no-idmap".parse().unwrap();
        assert!(Feature::ALL.into_iter().all(|feature| all.has(feature)));
        assert_eq!("".parse(), Ok(Features::default()));
        let one: Features = "no-idmap".parse().unwrap();
        assert!(one.has(Feature::Idmap) && !one.has(Feature::Resend));
        assert!(!all.without(one).has(Feature::Idmap));
        for bad in ["resend", "no-no-export-support", "idmap", "x"] {
            assert!(bad.parse::<Features>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_release_is_compared_by_its_numbers() {
        assert_eq!(version("6.1.0-44-cloud-amd64"), Some((6, 1)));
        assert_eq!(version("5.15"), Some((5, 15)));
        assert!(version("5.4.0").unwrap() < FLOOR && version("6.18.44-fc").unwrap() > FLOOR);
        assert_eq!(version("linux"), None);
    }
}
