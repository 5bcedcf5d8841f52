//! What can be said on the command line.

use std::{num::ParseIntError, time::Duration};

/// Kills the parts of the node again and again under readers, and counts what fails.
#[derive(Debug, clap::Parser)]
#[command(name = "vsecm-chaos", version)]
pub(super) struct Args {
    /// Seconds that all parts together may take; fewer kills then
    #[arg(long, value_parser = seconds)]
    pub(super) seconds: Option<Duration>,
    /// Where the logs of the processes stay; a folder that goes at the end if not given
    #[arg(long)]
    pub(super) dir: Option<std::path::PathBuf>,
    /// Only parts whose mode or victim has this in its name
    #[arg(long, default_value = "")]
    pub(super) only: String,
}

fn seconds(text: &str) -> Result<Duration, ParseIntError> {
    text.parse().map(Duration::from_secs)
}
