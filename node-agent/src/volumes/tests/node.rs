//! A node-agent without its socket, and all that is around it.

use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use vsecm_node_agent_api::{
    channel::{Connection, Listener},
    frame::{AgentReply, Order, OrderOutcome, OrderReply, Step},
    peer::PeerRule,
    volume::{PodRef, VersionDir, VolumeId, VolumeRecord},
};

use super::keeper::{Kept, keep};
use crate::{
    audit::{self, Audit},
    duty::Duty,
    identity::{
        Issue, Past, PodIdentity, Standing, Trouble,
        tests::{ByHand, issued, pod},
    },
    keeper::Keeper,
    kubernetes::driver::Driver,
    metrics,
    report::Reports,
    session::fixture::Mount,
    snapshot::Snapshot,
    tls::BaseConfig,
    volumes::{Means, Volumes, owner::Status},
    watch::{self as watches, Watches},
};

/// A node-agent without sockets, and all that is around it.
pub(super) struct Node {
    pub(super) volumes: Volumes,
    identities: Arc<ByHand>,
    duty: Arc<Duty>,
    pub(super) driver: watch::Sender<Driver>,
    pub(super) kept: Arc<Mutex<Kept>>,
    keeper_socket: PathBuf,
    keeping: Option<tokio::task::JoinHandle<()>>,
    hung: watch::Sender<bool>,
    pub(super) fatal: mpsc::Receiver<String>,
    pub(super) max_stale: Duration,
    _own: Option<watch::Sender<Option<BaseConfig>>>,
    dir: Arc<tempfile::TempDir>,
}

struct Shared(Arc<ByHand>);

impl PodIdentity for Shared {
    fn follow(&self, pod: &PodRef, past: Past) -> watch::Receiver<Standing> {
        self.0.follow(pod, past)
    }
}

impl Node {
    pub(super) fn new() -> Self {
        Self::retaining(Duration::ZERO)
    }

    /// One on which content outlives its last volume by so long.
    pub(super) fn retaining(max_stale: Duration) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let keeper_socket = dir.path().join("keeper.sock");
        let kept = Arc::new(Mutex::new(Kept::new()));
        let mut node = Self::beside(dir, keeper_socket, kept, max_stale);
        node.start_keeper();
        node
    }

    fn start_keeper(&mut self) {
        let listener = Listener::bind(&self.keeper_socket).unwrap();
        let kept = Arc::clone(&self.kept);
        let hung = self.hung.subscribe();
        self.keeping = Some(tokio::spawn(keep(listener, kept, hung)));
    }

    /// The keeper dies with all that it has, and another is started.
    pub(super) async fn lose_keeper(&mut self) {
        let keeping = self.keeping.take().unwrap();
        keeping.abort();
        assert!(keeping.await.unwrap_err().is_cancelled());
        self.kept.lock().unwrap().clear();
        self.start_keeper();
    }

    /// The keeper keeps its connections, and answers nothing more.
    pub(super) fn stop_keeper(&mut self) {
        self.hung.send_replace(true);
    }

    /// It goes on.
    pub(super) fn resume_keeper(&mut self) {
        self.hung.send_replace(false);
    }

    /// What the keeper has.
    pub(super) fn kept_now(&self) -> Kept {
        let copy = |(name, (record, descriptor)): (&String, &(Option<VolumeRecord>, OwnedFd))| {
            (name.clone(), (record.clone(), descriptor.try_clone().unwrap()))
        };
        self.kept.lock().unwrap().iter().map(copy).collect()
    }

    /// How many entries it has, without those that say when Safe confirmed what.
    pub(super) fn kept_beside_notes(&self) -> usize {
        let kept = self.kept.lock().unwrap();
        kept.keys().filter(|name| !name.starts_with("confirmed-")).count()
    }

    /// The keeper has this.
    pub(super) fn set_kept(&self, kept: Kept) {
        *self.kept.lock().unwrap() = kept;
    }

    /// A node-agent that has nothing but what the keeper keeps.
    pub(super) fn successor(&self) -> Self {
        let dir = Arc::clone(&self.dir);
        Self::beside(dir, self.keeper_socket.clone(), Arc::clone(&self.kept), self.max_stale)
    }

    fn beside(
        dir: Arc<tempfile::TempDir>,
        keeper_socket: PathBuf,
        kept: Arc<Mutex<Kept>>,
        max_stale: Duration,
    ) -> Self {
        let own = PeerRule::Uid(rustix::process::geteuid().as_raw());
        let keeper = Keeper::new(keeper_socket.clone(), own);
        let identities = Arc::new(ByHand::default());
        let duty = Arc::new(Duty::default());
        let (sender, fatal) = mpsc::channel(1);
        let (own, tls) = watch::channel(None);
        // with a sender an own identity may still come, and is waited for
        let own = (!max_stale.is_zero()).then_some(own);
        let reports = Arc::new(Reports::default());
        let watches = Watches::new(watches::Means {
            address: "https://127.0.0.1:1/".parse().unwrap(),
            tls,
            keeper: keeper.clone(),
            due: reports.due(),
            max_stale,
        });
        let driver = watch::Sender::new(Driver::Good);
        let volumes = Volumes::new(Means {
            identities: Box::new(Shared(Arc::clone(&identities))),
            watches,
            keeper,
            duty: Arc::clone(&duty),
            reports,
            driver: driver.subscribe(),
            sentinel: "vsecm-system".parse().unwrap(),
            audit: Audit::start("node-1", audit::Log).unwrap(),
            requests: Arc::default(),
            times: metrics::Times::default(),
            fatal: sender,
        });
        Self {
            volumes,
            identities,
            duty,
            driver,
            kept,
            keeper_socket,
            keeping: None,
            hung: watch::Sender::new(false),
            fatal,
            max_stale,
            _own: own,
            dir,
        }
    }

    pub(super) fn issue(&self) {
        self.issue_as("billing");
    }

    pub(super) fn issue_as(&self, workload: &str) {
        self.identities.set(&pod(), issued(&pod(), workload), None);
    }

    /// A second entry fits the pod, which keeps what it was issued first.
    pub(super) fn issue_two(&self) {
        let ids = vec!["spiffe://vsecm.com/a".into(), "spiffe://vsecm.com/b".into()];
        let trouble = Some(Trouble::Ambiguous { ids });
        self.identities.set(&pod(), issued(&pod(), "billing"), trouble);
    }

    /// SPIRE has nothing for the pod, and the grace is over.
    pub(super) fn end_grace(&self) {
        if self.identities.past(&pod()) == Some(Past::Issued) {
            self.withdraw();
        }
    }

    pub(super) fn withdraw(&self) {
        self.identities.set(&pod(), Issue::Withdrawn, None);
    }

    /// What Safe would say.
    pub(super) async fn say(&self, content: Snapshot) {
        let key = content.key().clone();
        let watch = self.volumes.means.watches.join(&"other".parse().unwrap(), &key, None);
        watch.publish(content).await;
    }

    pub(super) async fn attach(&self, record: &VolumeRecord, hold_ms: u64) -> AgentReply {
        let hold = Duration::from_millis(hold_ms);
        self.volumes.attach(record.clone(), hold).await
    }

    /// A csi that swaps on the mount at `root`.
    pub(super) async fn csi(&self, root: &Path) {
        let (ours, theirs) = Connection::pair().unwrap();
        let (duty, root) = (Arc::clone(&self.duty), root.to_owned());
        let mut arrivals = duty.arrivals();
        tokio::spawn(async move { duty.serve(&ours).await });
        tokio::spawn(async move {
            while let Ok(Some((order, _))) = theirs.receive::<Order>().await {
                let (id, root) = (order.id, root.clone());
                let done = tokio::task::spawn_blocking(move || take(&root, &order.step)).await;
                let outcome = match done.unwrap() {
                    Ok(outcome) => outcome,
                    Err(error) => OrderOutcome::Failed { reason: error.to_string() },
                };
                theirs.send(&OrderReply { id, outcome }, &[]).await.unwrap();
            }
        });
        arrivals.changed().await.unwrap();
    }

    /// The connection of a csi that does nothing by itself.
    pub(super) fn idle_csi(&self) -> Connection {
        let (ours, theirs) = Connection::pair().unwrap();
        let duty = Arc::clone(&self.duty);
        tokio::spawn(async move { duty.serve(&ours).await });
        theirs
    }

    pub(super) async fn serving_volume(&self, record: &VolumeRecord) -> Mount {
        let (mount, fuse) = Mount::new();
        let kept = (Some(record.clone()), fuse.try_clone().unwrap());
        let served = self.volumes.serve(&record.volume, record.inode_key, fuse).await;
        assert_eq!(served, AgentReply::Served);
        let name = record.volume.to_string();
        self.kept.lock().unwrap().insert(name, kept);
        self.csi(mount.root()).await;
        mount
    }

    pub(super) async fn until(
        &self,
        record: &VolumeRecord,
        what: &str,
        fits: impl FnMut(&Status) -> bool,
    ) {
        let mut status = self.volumes.get(&record.volume).unwrap().status.clone();
        let waited = timeout(Duration::from_secs(10), status.wait_for(fits)).await;
        waited.expect(what).expect(what);
    }
}

/// The next version that csi is to publish. Asked for mounts, it has none.
pub(super) async fn next_publish(csi: &Connection) -> (VolumeId, VersionDir) {
    loop {
        let (order, _) = csi.receive::<Order>().await.unwrap().unwrap();
        let outcome = match order.step {
            Step::Publish { dir, .. } => return (order.volume, dir),
            Step::Retire { .. } => OrderOutcome::Retired,
            Step::Binds { .. } => OrderOutcome::Binds { binds: Vec::new(), left: 0 },
        };
        csi.send(&OrderReply { id: order.id, outcome }, &[]).await.unwrap();
    }
}

fn take(root: &Path, step: &Step) -> std::io::Result<OrderOutcome> {
    let at = |name: &str| root.join(name);
    match step {
        Step::Publish { dir, replaced } => {
            swap(root, dir)?;
            for old in replaced {
                for name in names(&at(old.as_str()))? {
                    fs::remove_file(at(old.as_str()).join(name))?;
                }
            }
            Ok(OrderOutcome::Swapped)
        }
        Step::Retire { dirs } => {
            dirs.iter().try_for_each(|dir| fs::remove_dir(at(dir.as_str())))?;
            Ok(OrderOutcome::Retired)
        }
        Step::Binds { .. } => Ok(OrderOutcome::Binds { binds: Vec::new(), left: 0 }),
    }
}

fn names(folder: &Path) -> std::io::Result<Vec<String>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().into_string().unwrap())).collect()
}

fn swap(root: &Path, dir: &VersionDir) -> std::io::Result<()> {
    let at = |name: &str| root.join(name);
    match fs::create_dir(at(dir.as_str())) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    fs::remove_file(at("..data_tmp")).ok();
    std::os::unix::fs::symlink(dir.as_str(), at("..data_tmp"))?;
    fs::rename(at("..data_tmp"), at("..data"))?;
    let (present, wanted) = (names(root)?, names(&at(dir.as_str()))?);
    for name in wanted.iter().filter(|name| !present.contains(name)) {
        std::os::unix::fs::symlink(format!("..data/{name}"), at(name))?;
    }
    for name in present.iter().filter(|n| !n.starts_with("..") && !wanted.contains(n)) {
        fs::remove_file(at(name))?;
    }
    Ok(())
}
