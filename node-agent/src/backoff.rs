//! Pauses between attempts: doubling, bounded, with jitter, so that the agents of a cluster do not
//! come back in step.

use std::time::Duration;

/// Pauses that double from the first to the longest.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts at `first`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The next pause, between half and the whole of its nominal length.
    pub fn pause(&mut self) -> Duration {
        let nominal = self.next;
        self.next = (nominal * 2).min(self.longest);
        nominal / 2 + jitter(nominal / 2)
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A random part of `range`.
pub fn jitter(range: Duration) -> Duration {
    // where there is no randomness, a pause without it is better than none
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    range.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_start_anew_after_a_success() {
        let (first, longest) = (Duration::from_millis(200), Duration::from_secs(5));
        let mut backoff = Backoff::new(first, longest);
        for nominal in [200, 400, 800, 1600, 3200, 5000, 5000] {
            let nominal = Duration::from_millis(nominal);
            let pause = backoff.pause();
            assert!(nominal / 2 <= pause && pause <= nominal, "{pause:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= first);
    }
}
