//! Who opens which file: the volume attribute `audit: opens`.
//!
//! The thread that answers the kernel looks up who asks (`docs/design` says why there) and leaves
//! the line to another thread, by a queue that it never waits for. What does not fit is counted,
//! and a line says for which volume and how many.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing::warn;
use vsecm_node_agent_api::volume::{PodRef, VolumeId};

pub mod cgroup;
pub mod line;
pub mod reader;

use self::{
    line::{Open, Opened, Subject, write_lost},
    reader::{Asker, Reader},
};
use crate::inode::leading;

/// Opens that wait to be written: 2 MiB at most.
const QUEUE: usize = 4096;

/// How many of them may be one volume's: a pod that opens as fast as it can does not hide what
/// happens in others.
const SHARE: usize = QUEUE / 4;

/// While opens are lost all the time, how often that is said.
const LOST_INTERVAL: Duration = Duration::from_secs(1);

/// At its end the process waits so long for lines to be written.
const FLUSH_WAIT: Duration = Duration::from_secs(2);

/// Where lines go.
pub trait Write: Send + 'static {
    /// An open.
    fn open(&mut self, open: &Open<'_>);
    /// So many opens of a volume have no line.
    fn lost(&mut self, subject: &Subject, count: u64);
}

/// The log.
#[derive(Debug)]
pub struct Log;

impl Write for Log {
    fn open(&mut self, open: &Open<'_>) {
        open.write();
    }

    fn lost(&mut self, subject: &Subject, count: u64) {
        write_lost(subject, count);
    }
}

/// The correlation id of all that has to do with a volume: it needs no memory of its own.
pub fn correlation_id(volume: &VolumeId) -> String {
    let digest = Sha256::digest(volume.as_str());
    format!("{:016x}", leading(&digest))
}

enum Entry {
    Open(Box<Waiting>),
    Lost,
    Flush(oneshot::Sender<()>),
}

struct Waiting {
    recorder: Arc<Recorder>,
    actor: Option<Arc<String>>,
    at: SystemTime,
    reader: Reader,
    opened: Opened,
}

#[derive(Debug, Default)]
struct Counts {
    lines: AtomicU64,
    dropped: AtomicU64,
    /// What no line has told yet, by volume.
    lost: Mutex<BTreeMap<String, (Arc<Recorder>, u64)>>,
    has_lost: AtomicBool,
}

/// The audit of this process.
#[derive(Clone)]
pub struct Audit {
    queue: mpsc::Sender<Entry>,
    counts: Arc<Counts>,
    node: Arc<str>,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").finish_non_exhaustive()
    }
}

impl Audit {
    /// Starts the thread that writes. `node` is this node's name.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(node: &str, write: impl Write) -> io::Result<Self> {
        let (queue, entries) = mpsc::channel(QUEUE);
        let audit = Self { queue, counts: Arc::default(), node: node.into() };
        let counts = Arc::clone(&audit.counts);
        let thread = thread::Builder::new().name("vsecm-audit".to_owned());
        thread.spawn(move || Writer { write, counts, lost_told: None }.run(entries))?;
        Ok(audit)
    }

    /// The recorder of a volume.
    pub fn recorder(&self, volume: &VolumeId, pod: &PodRef) -> Arc<Recorder> {
        let subject = Subject {
            correlation_id: correlation_id(volume),
            volume: volume.to_string(),
            pod: pod.clone(),
            node: self.node.to_string(),
        };
        let (actor, waiting) = (ArcSwapOption::empty(), AtomicUsize::new(0));
        Arc::new(Recorder { audit: self.clone(), subject, actor, waiting })
    }

    /// Lines written so far.
    pub fn lines(&self) -> u64 {
        self.counts.lines.load(Relaxed)
    }

    /// Opens that have no line.
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Relaxed)
    }

    /// Waits, for moments, until all that was recorded so far is written.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        let flush = async {
            let asked = self.queue.send(Entry::Flush(done)).await;
            asked.is_ok() && flushed.await.is_ok()
        };
        if !timeout(FLUSH_WAIT, flush).await.unwrap_or(false) {
            warn!("not every open that was recorded has a line");
        }
    }
}

/// Records the opens of one volume.
#[derive(Debug)]
pub struct Recorder {
    audit: Audit,
    subject: Subject,
    actor: ArcSwapOption<String>,
    waiting: AtomicUsize,
}

impl Recorder {
    /// From now on the pod's SPIFFE ID is this.
    pub fn set_actor(&self, id: String) {
        self.actor.store(Some(Arc::new(id)));
    }

    /// The pod's SPIFFE ID as far as it is known; else empty.
    pub fn actor(&self) -> String {
        self.actor.load_full().map(|id| id.to_string()).unwrap_or_default()
    }

    /// Who asks. Only while the kernel holds the asker.
    pub fn reader(&self, asker: Asker) -> Reader {
        Reader::of(asker, &self.subject.pod.uid)
    }

    /// Records an open; never waits.
    pub fn record(self: &Arc<Self>, reader: Reader, opened: Opened) {
        let waiting = Waiting {
            recorder: Arc::clone(self),
            actor: self.actor.load_full(),
            at: SystemTime::now(),
            reader,
            opened,
        };
        let has_room = self.waiting.fetch_add(1, Relaxed) < SHARE;
        let queue = &self.audit.queue;
        if !has_room || queue.try_send(Entry::Open(Box::new(waiting))).is_err() {
            self.waiting.fetch_sub(1, Relaxed);
            self.lose();
        }
    }

    fn lose(self: &Arc<Self>) {
        let counts = &self.audit.counts;
        counts.dropped.fetch_add(1, Relaxed);
        let mut lost = counts.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.entry(self.subject.volume.clone()).or_insert_with(|| (Arc::clone(self), 0)).1 += 1;
        drop(lost);
        if !counts.has_lost.swap(true, Relaxed) {
            // where there is no room for this, the writer looks after what there is
            drop(self.audit.queue.try_send(Entry::Lost));
        }
    }
}

struct Writer<W> {
    write: W,
    counts: Arc<Counts>,
    lost_told: Option<Instant>,
}

impl<W: Write> Writer<W> {
    fn run(mut self, mut entries: mpsc::Receiver<Entry>) {
        while let Some(entry) = entries.blocking_recv() {
            match entry {
                Entry::Open(waiting) => self.open(&waiting),
                Entry::Lost => {}
                Entry::Flush(done) => {
                    self.tell_lost();
                    if done.send(()).is_err() {
                        warn!("nobody waits any more for lines to be written");
                    }
                }
            }
            let is_due = self.lost_told.is_none_or(|told| told.elapsed() >= LOST_INTERVAL);
            if entries.is_empty() || is_due {
                self.tell_lost();
            }
        }
    }

    fn open(&mut self, waiting: &Waiting) {
        let Waiting { recorder, actor, at, reader, opened } = waiting;
        recorder.waiting.fetch_sub(1, Relaxed);
        let actor = actor.as_ref().map_or("", |id| id.as_str());
        self.write.open(&Open { subject: &recorder.subject, actor, at: *at, reader, opened });
        self.counts.lines.fetch_add(1, Relaxed);
    }

    fn tell_lost(&mut self) {
        if !self.counts.has_lost.swap(false, Relaxed) {
            return;
        }
        self.lost_told = Some(Instant::now());
        let mut lost = self.counts.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let told = std::mem::take(&mut *lost);
        drop(lost);
        for (recorder, count) in told.into_values() {
            self.write.lost(&recorder.subject, count);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
