//! What is printed.

use std::{fmt, time::Duration};

/// What came of one part.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// `audit` of the volume, or which kernel is pretended.
    pub(super) mode: &'static str,
    /// Who was killed, and how.
    pub(super) victim: &'static str,
    /// How often.
    pub(super) kills: usize,
    /// Successors that were seen.
    pub(super) restarts: usize,
    /// Reads.
    pub(super) reads: u64,
    /// Reads that failed.
    pub(super) failed: u64,
    /// Connections that the watchdog aborted.
    pub(super) aborts: usize,
    /// The longest read around each kill.
    pub(super) stalls: Vec<Duration>,
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).copied().unwrap_or_default()
}

fn ms(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64() * 1000.0)
}

/// The head of the table.
pub(super) const HEAD: &str = "\
| audit | killed | kills | restarts | reads | failed | aborted | stall ms p50 | p99 | max |
|---|---|---|---|---|---|---|---|---|---|";

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut stalls = self.stalls.clone();
        stalls.sort();
        let [p50, p99, max] = [50, 99, 100].map(|percent| ms(percentile(&stalls, percent)));
        let Self { mode, victim, kills, restarts, reads, failed, aborts, .. } = self;
        write!(
            f,
            "| {mode} | {victim} | {kills} | {restarts} | {reads} | {failed} | {aborts} | {p50} | {p99} | {max} |"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_percentiles_of_its_stalls() {
        let stalls = (1..=100).rev().map(Duration::from_millis).collect();
        let row = Row {
            mode: "off",
            victim: "server",
            kills: 100,
            restarts: 100,
            reads: 5,
            failed: 0,
            aborts: 0,
            stalls,
        };
        let text = row.to_string();
        assert!(text.ends_with("| 50.0 | 99.0 | 100.0 |"), "{text}");
        let empty = Row { stalls: Vec::new(), ..row };
        assert!(empty.to_string().ends_with("| 0.0 | 0.0 | 0.0 |"));
    }
}
