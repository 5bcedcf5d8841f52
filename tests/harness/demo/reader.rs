//! An application that reads its secret over and over.

use std::{
    fs, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{DemoError, io_error};

/// What the reader met.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) reads: u64,
    pub(super) failures: Vec<String>,
    pub(super) longest: Duration,
}

/// A thread of its own: a read that hangs must not hold the demo.
#[derive(Debug)]
pub(super) struct Reader {
    over: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    thread: JoinHandle<Report>,
}

impl Reader {
    /// Opens, reads and closes `path` until it is stopped; each content must be one of `wanted`.
    pub(super) fn start(path: PathBuf, wanted: &'static [&'static str]) -> Result<Self, DemoError> {
        let over = Arc::new(AtomicBool::new(false));
        let reads = Arc::new(AtomicU64::new(0));
        let (stop, count) = (Arc::clone(&over), Arc::clone(&reads));
        let work = move || {
            let mut report = Report::default();
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let read = fs::read_to_string(&path);
                report.longest = report.longest.max(begun.elapsed());
                report.reads = count.fetch_add(1, Ordering::Relaxed) + 1;
                match read {
                    Ok(text) if wanted.contains(&text.as_str()) => {}
                    Ok(text) => report.failures.push(format!("read {text:?}")),
                    Err(error) => report.failures.push(error.to_string()),
                }
            }
            report
        };
        let thread = thread::Builder::new()
            .name("reader".to_owned())
            .spawn(work)
            .map_err(io_error("start the reader"))?;
        Ok(Self { over, reads, thread })
    }

    /// Reads so far.
    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Stops it.
    pub(super) async fn stop(self) -> Result<Report, DemoError> {
        self.over.store(true, Ordering::Relaxed);
        let joined = tokio::task::spawn_blocking(move || self.thread.join());
        match joined.await {
            Ok(Ok(report)) => Ok(report),
            _ => Err(io_error("hear from the reader")(io::Error::other("it panicked"))),
        }
    }
}
