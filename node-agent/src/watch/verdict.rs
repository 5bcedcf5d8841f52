//! What an answer of Safe does to what is held. Pure.

use std::time::SystemTime;

use time::OffsetDateTime;
use vsecm_safe_api::{
    position::Position,
    state::{Absent, Reason, Snapshot as Said, State},
};

use crate::snapshot::{Content, Removal, Snapshot};

/// What to do.
pub(super) enum Verdict {
    /// Show this instead of what is held.
    Show {
        /// What.
        content: Content,
        /// Since when it is so.
        time: SystemTime,
        /// The answer, if it was one without content.
        absent: Option<Absent>,
    },
    /// Nothing new.
    Same,
    /// What is held, and until when: a predecessor of another version did not note that.
    Until(Option<SystemTime>),
    /// There is no content, and there was none.
    StillAbsent(Absent),
    /// There is no content, yet what is held stays: the answer is no removal ([I2]).
    KeepAgainst(Absent),
}

/// Judges `answer` where `held` is held.
pub(super) fn judge(held: Option<&Snapshot>, answer: State, now: SystemTime) -> Verdict {
    match answer {
        State::Present(said) => present(held, said, now),
        State::Absent(absent) => without_content(held, absent),
    }
}

fn present(held: Option<&Snapshot>, said: Said, now: SystemTime) -> Verdict {
    let expires = said.expires.map(SystemTime::from);
    if expires.is_some_and(|end| end <= now) {
        // Safe's clock is a little behind ours: what we have taken away does not come back for it
        return without_content(held, over(said.expires, &said.position));
    }
    if let Some(held) = held
        && held.position() == Some(&said.position)
    {
        return if held.expires() == expires { Verdict::Same } else { Verdict::Until(expires) };
    }
    Verdict::Show {
        time: said.updated.into(),
        content: Content::Document {
            position: said.position,
            format: said.format,
            document: said.document.into(),
            expires,
        },
        absent: None,
    }
}

/// The absence of what was at `position` until its end.
pub(super) fn over(end: Option<OffsetDateTime>, position: &Position) -> Absent {
    Absent {
        reason: Reason::Expired,
        at: end,
        lineage: position.lineage.clone(),
        revision: position.revision,
    }
}

fn without_content(held: Option<&Snapshot>, absent: Absent) -> Verdict {
    let holds_document =
        held.is_some_and(|held| matches!(held.content(), Content::Document { .. }));
    let removal = match absent.reason {
        Reason::Deleted => Removal::Deleted,
        Reason::Expired => Removal::Expired,
        Reason::NotRegistered | Reason::NotYetValid | Reason::Unreadable => {
            return if holds_document {
                Verdict::KeepAgainst(absent)
            } else {
                Verdict::StillAbsent(absent)
            };
        }
    };
    if !holds_document {
        return Verdict::StillAbsent(absent);
    }
    Verdict::Show {
        time: absent.at.map_or_else(SystemTime::now, SystemTime::from),
        content: Content::Removed {
            removal,
            lineage: absent.lineage.clone(),
            revision: absent.revision,
        },
        absent: Some(absent),
    }
}

#[cfg(test)]
mod tests {
    use vsecm_safe_api::{
        position::{Digest, Lineage, Position, Revision},
        state::Format,
        value::SecretValue,
    };

    use super::*;
    use crate::snapshot::tests::{document, key};

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn absent(reason: Reason) -> State {
        State::Absent(Absent {
            reason,
            at: None,
            lineage: Lineage::from_random([7; 16]),
            revision: Revision(9),
        })
    }

    fn said(revision: u64, text: &str) -> State {
        said_until(revision, text, None)
    }

    fn said_until(revision: u64, text: &str, expires: Option<OffsetDateTime>) -> State {
        let now = OffsetDateTime::UNIX_EPOCH;
        State::Present(Said {
            position: Position {
                lineage: Lineage::from_random([7; 16]),
                revision: Revision(revision),
                digest: Digest::of(Format::Json, text.as_bytes()),
            },
            document: SecretValue::new(text.as_bytes().to_vec()).unwrap(),
            format: Format::Json,
            created: now,
            updated: now,
            expires,
        })
    }

    #[test]
    fn only_a_deletion_or_an_expiry_takes_content_away() {
        let held = document(7, "{}");
        for reason in [Reason::Deleted, Reason::Expired] {
            let verdict = judge(Some(&held), absent(reason), NOW);
            let Verdict::Show { content, .. } = verdict else {
                panic!("{reason:?} must take the content away");
            };
            assert!(matches!(content, Content::Removed { .. }));
        }
        for reason in [Reason::NotRegistered, Reason::NotYetValid, Reason::Unreadable] {
            let verdict = judge(Some(&held), absent(reason), NOW);
            assert!(matches!(verdict, Verdict::KeepAgainst(_)), "{reason:?}");
        }
    }

    #[test]
    fn where_nothing_is_held_an_absence_is_an_answer() {
        let removed = Content::Removed {
            removal: Removal::Deleted,
            lineage: Lineage::from_random([7; 16]),
            revision: Revision(8),
        };
        let removed = Snapshot::new(key(), removed, SystemTime::UNIX_EPOCH, 1).unwrap();
        for held in [None, Some(&removed)] {
            for reason in [Reason::NotRegistered, Reason::Deleted, Reason::Unreadable] {
                let verdict = judge(held, absent(reason), NOW);
                assert!(matches!(verdict, Verdict::StillAbsent(_)), "{reason:?}");
            }
        }
    }

    #[test]
    fn content_at_another_position_is_shown_and_the_same_is_not_shown_again() {
        let held = document(7, "{}");
        assert!(matches!(judge(Some(&held), said(7, "{}"), NOW), Verdict::Same));
        for answer in [said(8, "{}"), said(7, "{ }"), said(3, "{}")] {
            assert!(matches!(judge(Some(&held), answer, NOW), Verdict::Show { .. }));
        }
        assert!(matches!(judge(None, said(7, "{}"), NOW), Verdict::Show { .. }));
    }

    #[test]
    fn an_end_that_has_come_is_an_expiry_also_if_safe_does_not_say_so_yet() {
        let end = OffsetDateTime::from_unix_timestamp(50).unwrap();
        let answer = || said_until(8, "{}", Some(end));
        let held = document(7, "{}");
        let Verdict::Show { content, .. } = judge(Some(&held), answer(), end.into()) else {
            panic!("its time is over");
        };
        assert!(matches!(content, Content::Removed { removal: Removal::Expired, .. }));
        assert!(matches!(judge(None, answer(), end.into()), Verdict::StillAbsent(_)));
        let Verdict::Show { content, .. } = judge(Some(&held), answer(), NOW) else {
            panic!("its time is not over");
        };
        let end = SystemTime::from(end);
        assert!(matches!(content, Content::Document { expires: Some(at), .. } if at == end));
    }

    #[test]
    fn an_end_that_was_not_known_is_learnt_without_a_new_version() {
        let end = OffsetDateTime::from_unix_timestamp(50).unwrap();
        let verdict = judge(Some(&document(7, "{}")), said_until(7, "{}", Some(end)), NOW);
        assert!(matches!(verdict, Verdict::Until(Some(at)) if at == SystemTime::from(end)));
    }
}
