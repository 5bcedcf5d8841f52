//! One task per volume and errand. A second call joins the first (an ABORTED would cost the
//! kubelet's backoff), and a dropped RPC stops nothing half-done.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use vsecm_node_agent_api::volume::VolumeId;

/// What a task is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Bring the volume up.
    Publish,
    /// Have it served again.
    Revive,
    /// Take it down. Ends the wait of a publish.
    Unpublish,
}

struct Flight<T> {
    errand: Errand,
    cancel: CancellationToken,
    outcome: watch::Receiver<Option<T>>,
}

/// The tasks that run.
pub struct Flights<T> {
    running: Mutex<HashMap<VolumeId, Flight<T>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl<T> fmt::Debug for Flights<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").finish_non_exhaustive()
    }
}

/// The task ended without an outcome: it panicked.
#[derive(Debug, thiserror::Error)]
#[error("the task for the volume ended without an outcome")]
pub struct Lost;

enum Turn<T> {
    Join(watch::Receiver<Option<T>>),
    After(watch::Receiver<Option<T>>),
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// `stop` ends every wait.
    pub fn new(stop: CancellationToken) -> Self {
        Self {
            running: Mutex::default(),
            tasks: TaskTracker::new(),
            stop,
        }
    }

    /// Runs `task` for a volume, or joins the one that runs for the same errand; one of the other
    /// errand is waited for first. The task gets the token that ends its wait.
    pub async fn run<F>(
        self: &Arc<Self>,
        volume: &VolumeId,
        errand: Errand,
        task: impl Fn(CancellationToken) -> F + Send,
    ) -> Result<T, Lost>
    where
        F: Future<Output = T> + Send + 'static,
    {
        loop {
            match self.turn(volume, errand, &task) {
                Turn::Join(mut outcome) => {
                    let ended = outcome.wait_for(Option::is_some).await;
                    return ended.ok().and_then(|o| o.clone()).ok_or(Lost);
                }
                Turn::After(mut outcome) => {
                    // an error says that it has ended, too
                    let _ended = outcome.wait_for(Option::is_some).await.is_ok();
                }
            }
        }
    }

    fn turn<F>(
        self: &Arc<Self>,
        volume: &VolumeId,
        errand: Errand,
        task: &impl Fn(CancellationToken) -> F,
    ) -> Turn<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut running = self.lock();
        if let Some(flight) = running.get(volume) {
            let outcome = flight.outcome.clone();
            if flight.errand == errand {
                return Turn::Join(outcome);
            }
            if errand == Errand::Unpublish {
                flight.cancel.cancel();
            }
            return Turn::After(outcome);
        }
        let cancel = self.stop.child_token();
        let (done, outcome) = watch::channel(None);
        let landing = Landing {
            flights: Arc::clone(self),
            volume: volume.clone(),
        };
        let run = task(cancel.clone());
        self.tasks.spawn(async move {
            let result = run.await;
            // first off the list, then the news: whoever hears it may start the next task
            drop(landing);
            done.send_replace(Some(result));
        });
        let flight = Flight {
            errand,
            cancel,
            outcome: outcome.clone(),
        };
        running.insert(volume.clone(), flight);
        drop(running);
        Turn::Join(outcome)
    }

    /// Waits until no task runs; none may be started any more.
    pub async fn landed(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<VolumeId, Flight<T>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Landing<T: Clone + Send + Sync + 'static> {
    flights: Arc<Flights<T>>,
    volume: VolumeId,
}

impl<T: Clone + Send + Sync + 'static> Drop for Landing<T> {
    fn drop(&mut self) {
        self.flights.lock().remove(&self.volume);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    fn volume() -> VolumeId {
        "csi-1".parse().unwrap()
    }

    fn mk_flights() -> Arc<Flights<usize>> {
        Arc::new(Flights::new(CancellationToken::new()))
    }

    #[tokio::test]
    async fn a_second_call_joins_the_first_and_a_dropped_one_stops_nothing() {
        let (flights, id) = (mk_flights(), volume());
        let started = Arc::new(AtomicUsize::new(0));
        let go = Arc::new(Notify::new());
        let task = |_cancel| {
            let (started, go) = (Arc::clone(&started), Arc::clone(&go));
            async move {
                let number = started.fetch_add(1, Ordering::SeqCst);
                go.notified().await;
                number
            }
        };
        let mut first = Box::pin(flights.run(&id, Errand::Publish, task));
        assert!(futures_poll_once(first.as_mut()).await.is_none());
        drop(first);
        let second = flights.run(&id, Errand::Publish, task);
        go.notify_one();
        assert_eq!(second.await.unwrap(), 0);
        assert_eq!(started.load(Ordering::SeqCst), 1);
        go.notify_one();
        let third = flights.run(&id, Errand::Publish, task);
        assert_eq!(third.await.unwrap(), 1, "an ended task is not joined");
    }

    #[tokio::test]
    async fn an_unpublish_ends_the_wait_of_a_publish_and_runs_after_it() {
        let flights = mk_flights();
        let order = Arc::new(Mutex::new(Vec::new()));
        let publish = |cancel: CancellationToken| {
            let order = Arc::clone(&order);
            async move {
                cancel.cancelled().await;
                order.lock().unwrap().push("publish");
                1
            }
        };
        let unpublish = |_cancel| {
            let order = Arc::clone(&order);
            async move {
                order.lock().unwrap().push("unpublish");
                2
            }
        };
        let id = volume();
        let (up, down) = tokio::join!(
            flights.run(&id, Errand::Publish, publish),
            flights.run(&id, Errand::Unpublish, unpublish),
        );
        assert_eq!((up.unwrap(), down.unwrap()), (1, 2));
        assert_eq!(*order.lock().unwrap(), ["publish", "unpublish"]);
        flights.landed().await;
    }

    #[tokio::test]
    async fn a_stop_ends_every_wait() {
        let stop = CancellationToken::new();
        let flights = Arc::new(Flights::new(stop.clone()));
        stop.cancel();
        let wait = |cancel: CancellationToken| async move { cancel.cancelled().await };
        flights.run(&volume(), Errand::Publish, wait).await.unwrap();
    }

    async fn futures_poll_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(match std::pin::Pin::new(&mut future).poll(context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
