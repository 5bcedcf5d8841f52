//! Readers in a pod.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use vsecm_tests::story::SOON;

/// Threads that do the same over and over until they are stopped; the first complaint of each is kept.
pub(crate) struct Hammers {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Hammers {
    /// Starts `count` threads that call `strike` with the volume's path.
    pub(crate) fn start(
        count: usize,
        volume: &Path,
        strike: impl Fn(&Path) -> Result<(), String> + Clone + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new(AtomicU64::new(0));
        let one = |_| {
            let (stop, rounds) = (Arc::clone(&stop), Arc::clone(&rounds));
            let (volume, strike) = (volume.to_owned(), strike.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    strike(&volume)?;
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        };
        let threads = (0..count).map(one).collect();
        Self { stop, rounds, threads }
    }

    /// Ends all; how often they struck.
    ///
    /// # Panics
    /// With the first complaint.
    pub(crate) async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let joining = tokio::task::spawn_blocking(move || {
            self.threads.into_iter().try_for_each(|thread| thread.join().unwrap())
        });
        let joined = tokio::time::timeout(vsecm_tests::awaiting::patience(SOON), joining).await;
        joined.expect("a reader hangs").unwrap().unwrap();
        self.rounds.load(Ordering::Relaxed)
    }
}
