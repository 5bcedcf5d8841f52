//! What an answer of Safe does to what is held. Pure.

use std::time::SystemTime;

use vsecm_safe_api::state::{Absent, Reason, Snapshot as Said, State};

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
    /// There is no content, and there was none.
    StillAbsent(Absent),
    /// There is no content, yet what is held stays: the answer is no removal ([I2]).
    KeepAgainst(Absent),
}

/// Judges `answer` where `held` is held.
pub(super) fn judge(held: Option<&Snapshot>, answer: State) -> Verdict {
    match answer {
        State::Present(said) => present(held, said),
        State::Absent(absent) => without_content(held, absent),
    }
}

fn present(held: Option<&Snapshot>, said: Said) -> Verdict {
    if held.and_then(Snapshot::position) == Some(&said.position) {
        return Verdict::Same;
    }
    Verdict::Show {
        time: said.updated.into(),
        content: Content::Document {
            position: said.position,
            format: said.format,
            document: said.document,
        },
        absent: None,
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

    fn absent(reason: Reason) -> State {
        State::Absent(Absent {
            reason,
            at: None,
            lineage: Lineage::from_random([7; 16]),
            revision: Revision(9),
        })
    }

    fn said(revision: u64, text: &str) -> State {
        let now = time::OffsetDateTime::UNIX_EPOCH;
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
            expires: None,
        })
    }

    #[test]
    fn only_a_deletion_or_an_expiry_takes_content_away() {
        let held = document(7, "{}");
        for reason in [Reason::Deleted, Reason::Expired] {
            let verdict = judge(Some(&held), absent(reason));
            let Verdict::Show { content, .. } = verdict else {
                panic!("{reason:?} must take the content away");
            };
            assert!(matches!(content, Content::Removed { .. }));
        }
        for reason in [Reason::NotRegistered, Reason::NotYetValid, Reason::Unreadable] {
            let verdict = judge(Some(&held), absent(reason));
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
                let verdict = judge(held, absent(reason));
                assert!(matches!(verdict, Verdict::StillAbsent(_)), "{reason:?}");
            }
        }
    }

    #[test]
    fn content_at_another_position_is_shown_and_the_same_is_not_shown_again() {
        let held = document(7, "{}");
        assert!(matches!(judge(Some(&held), said(7, "{}")), Verdict::Same));
        for answer in [said(8, "{}"), said(7, "{ }"), said(3, "{}")] {
            assert!(matches!(judge(Some(&held), answer), Verdict::Show { .. }));
        }
        assert!(matches!(judge(None, said(7, "{}")), Verdict::Show { .. }));
    }
}
