//! Waiting for a state: each wait says what was awaited, how long, and what was seen last.

use std::{
    thread,
    time::{Duration, Instant},
};

/// What the cluster does at once when it is not overloaded.
pub(crate) const SOON: Duration = Duration::from_mins(1);

/// What waits for a kubelet's or a controller's pauses.
pub(crate) const PATIENTLY: Duration = Duration::from_mins(3);

/// How often a state is looked at: each look is a process of kubectl.
const LOOK: Duration = Duration::from_millis(250);

/// Looks until there is a value. `look` fails with what it saw instead.
///
/// # Panics
/// When it does not come in time.
#[track_caller]
pub(crate) fn value<T>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) => assert!(
                Instant::now() < deadline,
                "{what} did not come within {within:?}; seen last: {seen}"
            ),
        }
        thread::sleep(LOOK);
    }
}

/// Looks until `holds`; `seen` tells what was there instead.
///
/// # Panics
/// When it does not come in time.
#[track_caller]
pub(crate) fn until(
    what: &str,
    within: Duration,
    mut holds: impl FnMut() -> bool,
    seen: impl Fn() -> String,
) {
    value(what, within, || if holds() { Ok(()) } else { Err(seen()) });
}
