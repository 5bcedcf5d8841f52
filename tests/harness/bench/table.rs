//! The figures, a line each, as they are taken.

use std::{
    fmt,
    io::{self, Write as _},
    time::Duration,
};

use super::{BenchError, io_error, stats::Spread};

/// A bar of the design.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bar {
    /// There is none.
    None,
    /// At most this.
    AtMost(f64),
}

/// Prints lines.
#[derive(Debug)]
pub(super) struct Table(io::Stdout);

impl Table {
    pub(super) fn begin() -> Result<Self, BenchError> {
        let build = if cfg!(debug_assertions) {
            "DEVELOPMENT BUILD: its figures mean little"
        } else {
            "release build"
        };
        let mut table = Self(io::stdout());
        table.write(&format!("{build}; bars are those of the design\n"))?;
        Ok(table)
    }

    pub(super) fn section(&mut self, title: &str) -> Result<(), BenchError> {
        self.write(&format!("\n{title}\n"))
    }

    /// A number with its unit, against a bar in the same unit.
    pub(super) fn line(
        &mut self,
        what: &str,
        number: f64,
        unit: &str,
        bar: Bar,
    ) -> Result<(), BenchError> {
        let verdict = match bar {
            Bar::None => String::new(),
            Bar::AtMost(most) if number <= most => format!("bar {most} {unit}: held"),
            Bar::AtMost(most) => format!("bar {most} {unit}: MISSED"),
        };
        self.write(&format!("  {what:<58} {number:>9.2} {unit:<4} {verdict}\n"))
    }

    /// Many durations; the bar is for p99.
    pub(super) fn spread(
        &mut self,
        what: &str,
        spread: Spread,
        bar: Bar,
    ) -> Result<(), BenchError> {
        let Spread { p50, p99, max } = spread;
        let what = format!("{what}: p50 {}, max {}, p99", Millis(p50), Millis(max));
        self.line(&what, Millis(p99).number(), "ms", bar)
    }

    fn write(&mut self, text: &str) -> Result<(), BenchError> {
        let written = self.0.write_all(text.as_bytes()).and_then(|()| self.0.flush());
        written.map_err(io_error("write to stdout"))
    }
}

/// Milliseconds.
struct Millis(Duration);

impl Millis {
    fn number(&self) -> f64 {
        self.0.as_secs_f64() * 1e3
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}", self.number())
    }
}
