//! What a pod, or its volume, waits for: the kinds, as metrics count them. Pure.

use std::fmt;

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A kind of wait. The sentence that a pod's events show has more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Wait {
    /// Nothing is known yet.
    Starting,
    /// The `CSIDriver` object is missing or unfit, or was not seen yet.
    CsiDriver,
    /// No registration entry makes an identity for the pod.
    NoEntry,
    /// Several identities fit.
    AmbiguousIdentity,
    /// The identity is not the pod's as the kubelet names it.
    ForeignIdentity,
    /// An identity that is not understood.
    UnreadableIdentity,
    /// SPIRE's agent does not answer the question.
    SpireSilent,
    /// SPIRE's agent cannot be asked.
    SpireUnreachable,
    /// This process has no entry at SPIRE.
    NoOwnIdentity,
    /// This process may not ask for pods' identities.
    NoDelegate,
    /// The pod's identity was not renewed.
    IdentityExpired,
    /// The pod's identity was withdrawn.
    Withdrawn,
    /// Safe was asked and has not answered yet.
    Asking,
    /// Nobody has registered the secret.
    NotRegistered,
    /// It was deleted.
    Deleted,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// It has not all keys that the volume's items name.
    NoKey,
    /// Safe cannot read its record.
    Unreadable,
    /// Safe does not serve the pod's identity.
    Refused,
    /// Safe has no root key yet.
    SafeLocked,
    /// Safe cannot be asked.
    SafeUnreachable,
    /// Safe has not confirmed for long what is shown, or not since the pod began with it.
    Unconfirmed,
    /// csi has not published the newest version yet.
    Csi,
}

impl Wait {
    /// All kinds, so that a metric has each of them also at zero.
    pub const ALL: [Self; 24] = [
        Self::Starting,
        Self::CsiDriver,
        Self::NoEntry,
        Self::AmbiguousIdentity,
        Self::ForeignIdentity,
        Self::UnreadableIdentity,
        Self::SpireSilent,
        Self::SpireUnreachable,
        Self::NoOwnIdentity,
        Self::NoDelegate,
        Self::IdentityExpired,
        Self::Withdrawn,
        Self::Asking,
        Self::NotRegistered,
        Self::Deleted,
        Self::Expired,
        Self::NotYetValid,
        Self::NoKey,
        Self::Unreadable,
        Self::Refused,
        Self::SafeLocked,
        Self::SafeUnreachable,
        Self::Unconfirmed,
        Self::Csi,
    ];

    /// As metrics label it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::CsiDriver => "csidriver",
            Self::NoEntry => "no_entry",
            Self::AmbiguousIdentity => "ambiguous_identity",
            Self::ForeignIdentity => "foreign_identity",
            Self::UnreadableIdentity => "unreadable_identity",
            Self::SpireSilent => "spire_silent",
            Self::SpireUnreachable => "spire_unreachable",
            Self::NoOwnIdentity => "no_own_identity",
            Self::NoDelegate => "no_delegate",
            Self::IdentityExpired => "identity_expired",
            Self::Withdrawn => "identity_withdrawn",
            Self::Asking => "asking_safe",
            Self::NotRegistered => "not_registered",
            Self::Deleted => "deleted",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::NoKey => "no_key",
            Self::Unreadable => "unreadable",
            Self::Refused => "refused",
            Self::SafeLocked => "safe_locked",
            Self::SafeUnreachable => "safe_unreachable",
            Self::Unconfirmed => "unconfirmed",
            Self::Csi => "csi",
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A moment as sentences name it: to the second, in UTC.
pub fn moment(time: impl Into<OffsetDateTime>) -> String {
    let time: OffsetDateTime = time.into();
    let whole = time.replace_nanosecond(0).unwrap_or(time);
    whole.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_kind_is_listed_once_with_a_label_of_its_own() {
        let labels: BTreeSet<_> = Wait::ALL.iter().map(|wait| wait.label()).collect();
        assert_eq!(labels.len(), Wait::ALL.len());
    }
}
