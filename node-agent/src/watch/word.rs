//! How far what is held is Safe's word now. Pure.

use std::time::SystemTime;

/// Whether Safe would say the same now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Word {
    /// Safe has said nothing.
    #[default]
    Unsaid,
    /// The watch is open, and what is held is what Safe has.
    Current,
    /// The watch broke at that time; what was true then is held.
    Lost(SystemTime),
    /// It was true at that time, in a predecessor's watch or in one whose volumes have gone. It
    /// starts a new volume only while Safe cannot be asked.
    Provisional(SystemTime),
}

impl Word {
    /// When Safe confirmed it last; `None` where there is nothing to doubt.
    pub fn unconfirmed_since(self) -> Option<SystemTime> {
        match self {
            Self::Unsaid | Self::Current => None,
            Self::Lost(at) | Self::Provisional(at) => Some(at),
        }
    }

    /// When it was true last, seen from `now`.
    pub fn held_true(self, now: SystemTime) -> Option<SystemTime> {
        match self {
            Self::Unsaid => None,
            Self::Current => Some(now),
            Self::Lost(at) | Self::Provisional(at) => Some(at),
        }
    }

    /// The watch broke.
    #[must_use]
    pub fn lost(self, now: SystemTime) -> Self {
        match self {
            Self::Current => Self::Lost(now),
            before => before,
        }
    }

    /// Nobody watches any more.
    #[must_use]
    pub fn provisional(self, now: SystemTime) -> Self {
        self.held_true(now).map_or(Self::Unsaid, Self::Provisional)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_word_ages_from_the_moment_when_the_watch_broke() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let lost = Word::Current.lost(at(5)).lost(at(9));
        assert_eq!(lost, Word::Lost(at(5)));
        assert_eq!(lost.provisional(at(12)), Word::Provisional(at(5)));
        assert_eq!(Word::Current.provisional(at(12)), Word::Provisional(at(12)));
        assert_eq!(Word::Unsaid.lost(at(5)).provisional(at(5)), Word::Unsaid);
    }
}
