//! Readers that never stop, and what they have met.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::fs::{Advice, fadvise};

/// Complaints that are kept; the rest is counted only.
const KEPT: usize = 20;

/// How a reader reads.
#[derive(Clone, Copy, Debug)]
enum Habit {
    /// What the kernel has in its cache, as nearly all readers do.
    Warm,
    /// Drops the file's pages first, so that the server is asked each time.
    Cold,
}

/// What the readers have met, all together.
#[derive(Debug, Default)]
struct Board {
    stop: AtomicBool,
    reads: AtomicU64,
    failures: AtomicU64,
    complaints: Mutex<Vec<String>>,
    /// Nanoseconds of the longest read since it was last asked for.
    longest: AtomicU64,
}

/// Threads at work on one volume.
#[derive(Debug)]
pub(super) struct Readers {
    board: Arc<Board>,
    /// Reads that each has finished.
    finished: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<()>>,
}

/// The document of a version: whoever reads two halves of two versions notices.
pub(super) fn document(number: u64) -> String {
    format!(r#"{{"a":"{number:08}","b":"{}"}}"#, format!("{number:08}").repeat(2000))
}

/// The number of a document, if it is whole.
pub(super) fn number_of(text: &str) -> Option<u64> {
    let number = text.get(6..14)?.parse().ok()?;
    (text == document(number)).then_some(number)
}

fn read(volume: &Path, habit: Habit) -> io::Result<()> {
    let torn = |what: &str| io::Error::other(format!("{what} is torn"));
    let mut file = File::open(volume.join("secrets.json"))?;
    if matches!(habit, Habit::Cold) {
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    number_of(&text).ok_or_else(|| torn("secrets.json"))?;
    let length = fs::metadata(volume.join("b"))?.len();
    if length != 16_000 {
        return Err(torn("b"));
    }
    if matches!(habit, Habit::Cold) {
        let names = fs::read_dir(volume)?.collect::<Result<Vec<_>, _>>()?.len();
        if names < 5 {
            return Err(io::Error::other(format!("{names} names are listed")));
        }
    }
    Ok(())
}

impl Board {
    fn strike(&self, volume: &Path, habit: Habit) {
        let began = Instant::now();
        let outcome = read(volume, habit);
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.longest.fetch_max(took, Relaxed);
        self.reads.fetch_add(1, Relaxed);
        if let Err(error) = outcome {
            self.failures.fetch_add(1, Relaxed);
            let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
            if complaints.len() < KEPT {
                let at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                let at = at.unwrap_or_default().as_secs_f64();
                complaints.push(format!("{at:.6} {habit:?}: {error}"));
            }
            drop(complaints);
        }
    }
}

impl Readers {
    /// Four of them, two warm and two cold.
    pub(super) fn start(volume: &Path) -> Self {
        let board = Arc::<Board>::default();
        let (mut finished, mut threads) = (Vec::new(), Vec::new());
        for habit in [Habit::Warm, Habit::Cold, Habit::Warm, Habit::Cold] {
            let (board, mine) = (Arc::clone(&board), Arc::<AtomicU64>::default());
            finished.push(Arc::clone(&mine));
            let volume: PathBuf = volume.to_owned();
            threads.push(std::thread::spawn(move || {
                while !board.stop.load(Relaxed) {
                    board.strike(&volume, habit);
                    mine.fetch_add(1, Relaxed);
                }
            }));
        }
        Self { board, finished, threads }
    }

    /// How many reads each has finished.
    pub(super) fn progress(&self) -> Vec<u64> {
        self.finished.iter().map(|count| count.load(Relaxed)).collect()
    }

    /// Whether each has begun and finished a read since `then`: two, as the first may have been
    /// under way.
    pub(super) fn have_all_read_since(&self, then: &[u64]) -> bool {
        self.progress().iter().zip(then).all(|(now, then)| *now >= then + 2)
    }

    /// The longest read since this was last asked.
    pub(super) fn longest(&self) -> Duration {
        Duration::from_nanos(self.board.longest.swap(0, Relaxed))
    }

    /// Reads and failures so far.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.board.reads.load(Relaxed), self.board.failures.load(Relaxed))
    }

    /// What failed, the first of it.
    pub(super) fn complaints(&self) -> Vec<String> {
        self.board.complaints.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends them; one that hangs is left behind, and counted.
    pub(super) fn stop(self) -> usize {
        self.board.stop.store(true, Relaxed);
        let patience = Instant::now() + Duration::from_secs(15);
        let mut hanging = 0;
        for thread in self.threads {
            while !thread.is_finished() && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(1));
            }
            if !thread.is_finished() || thread.join().is_err() {
                hanging += 1;
            }
        }
        hanging
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_of_two_versions_is_torn() {
        assert_eq!(number_of(&document(7)), Some(7));
        let (seven, eight) = (document(7), document(8));
        let torn = format!("{}{}", &seven[..100], &eight[100..]);
        assert_eq!(number_of(&torn), None);
        assert_eq!(number_of(""), None);
    }
}
