//! For how long a volume has had no news, and how grave that is.

use std::time::Duration;

use tokio::time::Instant;
use vsecm_node_agent_api::frame::Gravity;

use super::{Held, Status};

/// What lasts longer than this does not pass by itself: a restart of Safe or SPIRE takes less.
const STALE: Duration = Duration::from_mins(10);

impl Status {
    /// What the next status has to know: since when there is no news.
    pub(super) fn known_stale_since(&self) -> Instant {
        if self.conditions.is_empty() { Instant::now() } else { self.stale_since }
    }

    /// A lost identity does not come back by itself; all else may, and is grave only if it lasts.
    pub(in crate::volumes) fn gravity(&self, now: Instant) -> Gravity {
        let lasts = now.saturating_duration_since(self.stale_since) > STALE;
        if self.identity == Held::Withdrawn || (!self.conditions.is_empty() && lasts) {
            Gravity::Abnormal
        } else {
            Gravity::Passing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{volumes::reason::Reason, wait::Wait};

    fn stale() -> Status {
        let conditions = vec![Reason::new(Wait::Deleted, "Safe has no content now")];
        Status { conditions, ..Status::default() }
    }

    #[test]
    fn a_condition_is_grave_when_the_identity_is_withdrawn_or_after_ten_minutes() {
        let later = |status: &Status, minutes| status.stale_since + Duration::from_mins(minutes);
        for (status, minutes, gravity) in [
            (Status::default(), 11, Gravity::Passing),
            (stale(), 10, Gravity::Passing),
            (Status { identity: Held::Withdrawn, ..stale() }, 0, Gravity::Abnormal),
        ] {
            assert_eq!(status.gravity(later(&status, minutes)), gravity);
        }
        let (status, second) = (stale(), Duration::from_secs(1));
        assert_eq!(status.gravity(later(&status, 10) + second), Gravity::Abnormal);
    }

    #[test]
    fn a_volume_is_stale_since_its_first_condition_until_it_has_none() {
        let hour_ago = Instant::now().checked_sub(Duration::from_hours(1)).unwrap();
        let before = Status { stale_since: hour_ago, ..stale() };
        assert_eq!(before.known_stale_since(), hour_ago);
        let fresh = Status { conditions: Vec::new(), ..before };
        assert!(fresh.known_stale_since() > hour_ago);
    }
}
