//! Figures of the volume, measured with the real processes on this machine.
//!
//! What can be compared is compared within one run, in turns, with the same work on a tmpfs: a
//! ratio says the same on a slow machine. Nothing here asserts a time; the bars of the design are
//! printed beside what was measured.

mod footprint;
mod life;
mod reading;
mod rotation;
mod stats;
mod table;

use std::{
    error::Error,
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use futures_util::future::try_join_all;
use tokio::runtime::Runtime;

use self::table::Table;
use crate::{
    Options, Playground, PlaygroundError, Pod, PodSpec, awaiting::TooLate, kubelet::PodError,
    namespace,
};

/// What to measure.
#[derive(Debug, Parser)]
#[command(name = "vsecm-bench", about = "Figures of the volume against the bars of the design")]
struct Arguments {
    /// Volumes on the node, rising: one, a kubelet's default limit of pods, more than a node should have
    #[arg(default_values_t = [1, 110, 500], value_parser = clap::value_parser!(u16).range(1..=900))]
    volumes: Vec<u16>,
}

/// What no step takes, also with 500 volumes on two cores.
const PATIENCE: Duration = Duration::from_mins(2);

/// A figure could not be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// The playground.
    #[error(transparent)]
    Playground(#[from] PlaygroundError),
    /// A pod.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// Something did not come.
    #[error(transparent)]
    TooLate(#[from] TooLate),
    /// A file or a system call.
    #[error("cannot {what}")]
    Io {
        /// What was to be done.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn io_error<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> BenchError {
    move |source| BenchError::Io { what, source: source.into() }
}

/// Runs the program.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let mut sentence = format!("vsecm-bench: {failure}");
            let mut cause = failure.source();
            while let Some(error) = cause {
                sentence = format!("{sentence}: {error}");
                cause = error.source();
            }
            // stderr may be gone, and then there is nobody to tell
            let _told: io::Result<()> = writeln!(io::stderr(), "{sentence}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    // before the runtime, whose threads would forbid it
    namespace::enter_if_needed()?;
    Ok(Runtime::new()?.block_on(all(&arguments.volumes))?)
}

async fn all(volumes: &[u16]) -> Result<(), BenchError> {
    let mut table = Table::begin()?;
    let folder = tempfile::Builder::new().prefix("vsecm-bench-").tempdir();
    let folder = folder.map_err(io_error("make a temporary folder"))?;
    let options = Options {
        // no renewal in the midst of a figure
        svid_lifetime: Duration::from_hours(1),
        log_filter: "warn".to_owned(),
        ..Options::default()
    };
    let playground = Playground::start(folder.path(), options).await?;
    let outcome = figures(&playground, &mut table, volumes).await;
    let ended = playground.shutdown().await;
    outcome.and(ended.map_err(BenchError::from))
}

async fn figures(
    playground: &Playground,
    table: &mut Table,
    volumes: &[u16],
) -> Result<(), BenchError> {
    reading::measure(playground, table).await?;
    life::measure(playground, table).await?;
    let mut pods = Vec::new();
    for volumes in volumes.iter().map(|volumes| usize::from(*volumes)) {
        grow(playground, &mut pods, volumes).await?;
        footprint::measure(playground, table, volumes).await?;
        rotation::measure(playground, table, &pods).await?;
    }
    Ok(())
}

/// Up to that many pods, each with a secret of its own of 1 KiB.
async fn grow(
    playground: &Playground,
    pods: &mut Vec<Arc<Pod>>,
    volumes: usize,
) -> Result<(), BenchError> {
    for number in pods.len()..volumes {
        let name = format!("pod-{number}");
        playground.register(&name, "default", rotation::value(0).as_bytes()).await?;
        pods.push(playground.create_pod(PodSpec::new(&name))?);
    }
    try_join_all(pods.iter().map(|pod| pod.ready(PATIENCE))).await?;
    Ok(())
}
