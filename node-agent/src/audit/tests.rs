//! The queue, without a kernel.

use std::sync::mpsc as channel;

use tokio::time::Instant as TokioInstant;

use super::{line::Outcome, reader::Place, *};
use crate::identity::tests::pod;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a few of them, in tests")]
pub(crate) enum Written {
    Open { volume: String, actor: String, reader: Reader, opened: Opened },
    Lost { volume: String, count: u64 },
}

/// Lines for a test to look at.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<Written>>>);

impl Lines {
    pub(crate) fn all(&self) -> Vec<Written> {
        self.0.lock().unwrap().clone()
    }

    /// What was opened.
    pub(crate) fn opened(&self) -> Vec<(Reader, Opened)> {
        let opens = self.all().into_iter().filter_map(|line| match line {
            Written::Open { reader, opened, .. } => Some((reader, opened)),
            Written::Lost { .. } => None,
        });
        opens.collect()
    }
}

impl Write for Lines {
    fn open(&mut self, open: &Open<'_>) {
        self.0.lock().unwrap().push(Written::Open {
            volume: open.subject.volume.clone(),
            actor: open.actor.to_owned(),
            reader: open.reader.clone(),
            opened: open.opened.clone(),
        });
    }

    fn lost(&mut self, subject: &Subject, count: u64) {
        let volume = subject.volume.clone();
        self.0.lock().unwrap().push(Written::Lost { volume, count });
    }
}

/// A log that takes nothing until it is told to go on.
pub(crate) struct Stuck {
    lines: Lines,
    go_on: Option<channel::Receiver<()>>,
}

impl Stuck {
    /// It goes on when the sender is dropped.
    pub(crate) fn new(lines: Lines) -> (Self, channel::Sender<()>) {
        let (sender, go_on) = channel::channel();
        (Self { lines, go_on: Some(go_on) }, sender)
    }
}

impl Write for Stuck {
    fn open(&mut self, open: &Open<'_>) {
        if let Some(go_on) = self.go_on.take() {
            go_on.recv().unwrap_err();
        }
        self.lines.open(open);
    }

    fn lost(&mut self, subject: &Subject, count: u64) {
        self.lines.lost(subject, count);
    }
}

fn reader() -> Reader {
    let place = Place::Node;
    Reader { pid: Some(1), uid: Some(0), gid: Some(0), command: None, place }
}

fn opened() -> Opened {
    let file = Some("a".to_owned());
    Opened { secret: None, revision: None, file, outcome: Outcome::Opened }
}

fn recorder(audit: &Audit, volume: &str) -> Arc<Recorder> {
    audit.recorder(&volume.parse().unwrap(), &pod())
}

#[tokio::test]
async fn what_does_not_fit_is_counted_and_said_and_never_waited_for() {
    let lines = Lines::default();
    let (stuck, go_on) = Stuck::new(lines.clone());
    let audit = Audit::start("node-1", stuck).unwrap();
    let (busy, calm) = (recorder(&audit, "csi-busy"), recorder(&audit, "csi-calm"));
    // the first is in the writer's hand once it has left the queue
    busy.record(reader(), opened());
    while busy.waiting.load(Relaxed) != 0 {
        tokio::task::yield_now().await;
    }
    let began = TokioInstant::now();
    for _ in 0..SHARE + 7 {
        busy.record(reader(), opened());
    }
    assert_eq!(audit.dropped(), 7);
    calm.record(reader(), opened());
    assert_eq!(audit.dropped(), 7, "one volume's opens take no room from another's");
    assert!(began.elapsed() < Duration::from_secs(5), "somebody waited");
    drop(go_on);
    audit.flush().await;
    let all = lines.all();
    let lost: Vec<_> = all.iter().filter(|line| matches!(line, Written::Lost { .. })).collect();
    assert_eq!(lost, [&Written::Lost { volume: "csi-busy".to_owned(), count: 7 }]);
    assert_eq!(lines.opened().len(), 1 + SHARE + 1);
    assert_eq!(audit.lines(), 2 + u64::try_from(SHARE).unwrap());
}

#[tokio::test]
async fn the_queue_has_an_end_for_all_volumes_together() {
    let lines = Lines::default();
    let (stuck, go_on) = Stuck::new(lines.clone());
    let audit = Audit::start("node-1", stuck).unwrap();
    let volumes: Vec<_> = (0..5).map(|n| recorder(&audit, &format!("csi-{n}"))).collect();
    volumes[0].record(reader(), opened());
    while volumes[0].waiting.load(Relaxed) != 0 {
        tokio::task::yield_now().await;
    }
    for recorder in &volumes {
        for _ in 0..SHARE {
            recorder.record(reader(), opened());
        }
    }
    assert_eq!(audit.dropped(), u64::try_from(5 * SHARE - QUEUE).unwrap());
    drop(go_on);
    audit.flush().await;
    assert_eq!(lines.opened().len(), 1 + QUEUE);
    assert!(lines.all().contains(&Written::Lost {
        volume: "csi-4".to_owned(),
        count: u64::try_from(5 * SHARE - QUEUE).unwrap()
    }));
}

#[tokio::test]
async fn a_line_has_the_spiffe_id_that_the_pod_had_when_it_opened() {
    let lines = Lines::default();
    let audit = Audit::start("node-1", lines.clone()).unwrap();
    let recorder = recorder(&audit, "csi-1");
    recorder.record(reader(), opened());
    recorder.set_actor("spiffe://vsecm.com/workload/web".to_owned());
    recorder.record(reader(), opened());
    audit.flush().await;
    let actors: Vec<_> = lines
        .all()
        .into_iter()
        .map(|line| match line {
            Written::Open { actor, .. } => actor,
            Written::Lost { .. } => panic!("nothing was lost"),
        })
        .collect();
    assert_eq!(actors, ["", "spiffe://vsecm.com/workload/web"]);
}

#[test]
fn a_volume_has_one_correlation_id_which_safe_takes() {
    let volume: VolumeId = format!("csi-{}", "ab".repeat(32)).parse().unwrap();
    let id = correlation_id(&volume);
    assert_eq!(id.len(), 16);
    assert_eq!(id, correlation_id(&volume));
    assert_ne!(id, correlation_id(&"csi-2".parse().unwrap()));
}
