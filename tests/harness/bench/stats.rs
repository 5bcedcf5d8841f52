//! Percentiles and medians.

use std::time::Duration;

/// What is said of many durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spread {
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    pub(super) max: Duration,
}

impl Spread {
    /// Of at least one sample; all zero of none.
    pub(super) fn of(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        Self {
            p50: rank(&samples, 50),
            p99: rank(&samples, 99),
            max: samples.last().copied().unwrap_or_default(),
        }
    }
}

/// The nearest rank: the smallest sample that `percent` of all do not exceed.
fn rank(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// The middle of some numbers; 0 of none.
pub(super) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let samples: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        let spread = Spread::of(samples);
        let millis = |ms| Duration::from_millis(ms);
        assert_eq!((spread.p50, spread.p99, spread.max), (millis(100), millis(198), millis(200)));
        assert_eq!(Spread::of(vec![millis(3)]).p99, millis(3));
        assert_eq!(Spread::of(Vec::new()).max, Duration::ZERO);
    }

    #[test]
    fn a_median_does_not_care_for_one_that_is_far_off() {
        assert!((median(vec![900.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }
}
