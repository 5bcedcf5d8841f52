//! What the reader sees.

use std::io::{self, Write as _};

use super::{DemoError, io_error};

/// Prints numbered steps.
#[derive(Debug, Default)]
pub(super) struct Teller {
    steps: u32,
}

impl Teller {
    pub(super) fn title(text: &str) -> Result<(), DemoError> {
        write(text)
    }

    pub(super) fn step(&mut self, text: &str) -> Result<(), DemoError> {
        self.steps += 1;
        write(&format!("{:>2}. {text}", self.steps))
    }

    /// Something about the last step: each line is indented.
    pub(super) fn detail(text: &str) -> Result<(), DemoError> {
        for line in text.lines() {
            write(&format!("    {line}"))?;
        }
        Ok(())
    }
}

fn write(line: &str) -> Result<(), DemoError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(io_error("write to stdout"))
}
