//! Volumes with real mounts, a keeper and a csi in this process, and identities by hand.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use tokio::runtime;
use vsecm_node_agent_api::{
    channel::{Connection, Listener},
    frame::{Descriptor, KeeperReply, KeeperRequest, Order, OrderOutcome, OrderReply, PAGE},
    peer::PeerRule,
    volume::{Gate as Gating, OnWithdraw},
};
use vsecm_safe_api::position::{Lineage, Revision};

use super::*;
use crate::{
    identity::{
        Issue,
        tests::{ByHand, issued, pod},
    },
    session::fixture::{Mount, apart},
    snapshot::{Content, Removal, tests::document_of},
    tree::tests::options,
    watch,
};

type Kept = BTreeMap<String, (Option<VolumeRecord>, OwnedFd)>;

/// The keeper's side of the conversation, in memory.
async fn keep(listener: Listener, kept: Arc<Mutex<Kept>>) {
    loop {
        let (connection, _peer) = listener.accept().await.unwrap();
        let kept = Arc::clone(&kept);
        tokio::spawn(async move {
            while let Ok(Some((request, descriptors))) = connection.receive().await {
                let (reply, descriptor) =
                    kept_answer(&mut kept.lock().unwrap(), request, descriptors);
                let descriptors: Vec<_> = descriptor.iter().map(|fd| fd.as_fd()).collect();
                connection.send(&reply, &descriptors).await.unwrap();
            }
        });
    }
}

fn kept_answer(
    kept: &mut Kept,
    request: KeeperRequest,
    mut descriptors: Vec<OwnedFd>,
) -> (KeeperReply, Option<OwnedFd>) {
    let get = |kept: &Kept, name: &str| match kept.get(name) {
        Some((_, descriptor)) => {
            let copy = descriptor.try_clone().unwrap();
            (KeeperReply::Descriptor, Some(copy))
        }
        None => (KeeperReply::Unknown, None),
    };
    match request {
        KeeperRequest::PutContent { key } => {
            kept.insert(key.into(), (None, descriptors.remove(0)));
            (KeeperReply::Done, None)
        }
        KeeperRequest::RemoveContent { key } => {
            kept.remove(&String::from(key));
            (KeeperReply::Done, None)
        }
        KeeperRequest::GetContent { key } => get(kept, &String::from(key)),
        KeeperRequest::GetVolume { volume, descriptor } => {
            assert_eq!(descriptor, Descriptor::Fuse);
            get(kept, volume.as_str())
        }
        KeeperRequest::ListContents { after } => {
            let after = after.map_or_else(String::new, String::from);
            let contents = kept.iter().filter(|(_, (record, _))| record.is_none());
            let keys = contents
                .filter(|(name, _)| **name > after)
                .map(|(name, _)| name.clone().try_into().unwrap());
            let keys = keys.take(PAGE).collect();
            (KeeperReply::Contents { keys }, None)
        }
        KeeperRequest::ListVolumes { after } => {
            let after = after.map_or_else(String::new, String::from);
            let volumes = kept.iter().filter(|(name, _)| **name > after);
            let records = volumes.filter_map(|(_, (record, _))| record.clone());
            let records = records.take(PAGE).collect();
            (KeeperReply::Volumes { records }, None)
        }
        KeeperRequest::PutVolume { .. } | KeeperRequest::RemoveVolume { .. } => {
            panic!("node-agent may not do that")
        }
    }
}

/// A node-agent without sockets, and all that is around it.
struct Node {
    volumes: Volumes,
    identities: Arc<ByHand>,
    duty: Arc<Duty>,
    kept: Arc<Mutex<Kept>>,
    keeper_socket: PathBuf,
    fatal: mpsc::Receiver<String>,
    dir: Arc<tempfile::TempDir>,
}

struct Shared(Arc<ByHand>);

impl PodIdentity for Shared {
    fn follow(
        &self,
        pod: &vsecm_node_agent_api::volume::PodRef,
    ) -> tokio::sync::watch::Receiver<crate::identity::Standing> {
        self.0.follow(pod)
    }
}

impl Node {
    fn new() -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let keeper_socket = dir.path().join("keeper.sock");
        let kept = Arc::new(Mutex::new(Kept::new()));
        let listener = Listener::bind(&keeper_socket).unwrap();
        tokio::spawn(keep(listener, Arc::clone(&kept)));
        Self::beside(dir, keeper_socket, kept)
    }

    /// A node-agent that has nothing but what the keeper keeps.
    fn successor(&self) -> Self {
        let dir = Arc::clone(&self.dir);
        Self::beside(dir, self.keeper_socket.clone(), Arc::clone(&self.kept))
    }

    fn beside(dir: Arc<tempfile::TempDir>, keeper_socket: PathBuf, kept: Arc<Mutex<Kept>>) -> Self {
        let own = PeerRule::Uid(rustix::process::geteuid().as_raw());
        let keeper = Keeper::new(keeper_socket.clone(), own);
        let identities = Arc::new(ByHand::default());
        let duty = Arc::new(Duty::default());
        let (sender, fatal) = mpsc::channel(1);
        let (_never, tls) = tokio::sync::watch::channel(None);
        let watches = Watches::new(watch::Means {
            address: "https://127.0.0.1:1/".parse().unwrap(),
            tls,
            keeper: keeper.clone(),
            node: "node-1".into(),
        });
        let volumes = Volumes::new(Means {
            identities: Box::new(Shared(Arc::clone(&identities))),
            watches,
            keeper,
            duty: Arc::clone(&duty),
            fatal: sender,
        });
        Self {
            volumes,
            identities,
            duty,
            kept,
            keeper_socket,
            fatal,
            dir,
        }
    }

    fn issue(&self) {
        self.identities.set(&pod(), issued(&pod(), "billing"), None);
    }

    fn withdraw(&self) {
        self.identities.set(&pod(), Issue::Withdrawn, None);
    }

    /// What Safe would say.
    async fn say(&self, content: Snapshot) {
        let key = content.key().clone();
        let watch = self
            .volumes
            .means
            .watches
            .join(&"other".parse().unwrap(), &key, None);
        watch.publish(content).await;
    }

    async fn attach(&self, record: &VolumeRecord, hold_ms: u64) -> AgentReply {
        let hold = Duration::from_millis(hold_ms);
        self.volumes.attach(record.clone(), hold).await
    }

    /// A csi that swaps on the mount at `root`.
    async fn csi(&self, root: &Path) {
        let (ours, theirs) = Connection::pair().unwrap();
        let (duty, root) = (Arc::clone(&self.duty), root.to_owned());
        let mut arrivals = duty.arrivals();
        tokio::spawn(async move { duty.serve(&ours).await });
        tokio::spawn(async move {
            while let Ok(Some((order, _))) = theirs.receive::<Order>().await {
                let (id, root) = (order.id, root.clone());
                let swapped = tokio::task::spawn_blocking(move || swap(&root, &order)).await;
                let outcome = match swapped.unwrap() {
                    Ok(()) => OrderOutcome::Swapped,
                    Err(error) => OrderOutcome::Failed {
                        reason: error.to_string(),
                    },
                };
                theirs.send(&OrderReply { id, outcome }, &[]).await.unwrap();
            }
        });
        arrivals.changed().await.unwrap();
    }

    async fn serving_volume(&self, record: &VolumeRecord) -> Mount {
        let (mount, fuse) = Mount::new();
        let kept = (Some(record.clone()), fuse.try_clone().unwrap());
        let served = self.volumes.serve(&record.volume, fuse).await;
        assert_eq!(served, AgentReply::Served);
        let name = record.volume.to_string();
        self.kept.lock().unwrap().insert(name, kept);
        self.csi(mount.root()).await;
        mount
    }

    async fn until(&self, record: &VolumeRecord, what: &str, fits: impl FnMut(&Status) -> bool) {
        let mut status = self.volumes.get(&record.volume).unwrap().status.clone();
        let waited = timeout(Duration::from_secs(10), status.wait_for(fits)).await;
        waited.expect(what).expect(what);
    }
}

fn swap(root: &Path, order: &Order) -> std::io::Result<()> {
    let at = |name: &str| root.join(name);
    fs::remove_file(at("..data_tmp")).ok();
    std::os::unix::fs::symlink(order.publish.as_str(), at("..data_tmp"))?;
    fs::rename(at("..data_tmp"), at("..data"))?;
    let names = |path: PathBuf| -> std::io::Result<Vec<String>> {
        fs::read_dir(path)?
            .map(|entry| Ok(entry?.file_name().into_string().unwrap()))
            .collect()
    };
    let (present, wanted) = (names(root.to_owned())?, names(at(order.publish.as_str()))?);
    for name in wanted.iter().filter(|name| !present.contains(name)) {
        std::os::unix::fs::symlink(format!("..data/{name}"), at(name))?;
    }
    for name in present
        .iter()
        .filter(|n| !n.starts_with("..") && !wanted.contains(n))
    {
        fs::remove_file(at(name))?;
    }
    if let Some(retire) = &order.retire {
        let folder = at(retire.as_str());
        for name in names(folder.clone())? {
            fs::remove_file(folder.join(name))?;
        }
        fs::remove_dir(folder)?;
    }
    Ok(())
}

fn record() -> VolumeRecord {
    VolumeRecord {
        volume: "csi-1".parse().unwrap(),
        pod: pod(),
        options: options(),
        target: "pods/0123/volumes/kubernetes.io~csi/vsecm/mount".into(),
    }
}

fn said(revision: u64, text: &str) -> Snapshot {
    document_of("shop", revision, text)
}

fn deleted(revision: u64) -> Snapshot {
    let content = Content::Removed {
        removal: Removal::Deleted,
        lineage: Lineage::from_random([7; 16]),
        revision: Revision(revision),
    };
    let key = said(1, "{}").key().clone();
    Snapshot::new(key, content, std::time::SystemTime::now(), revision).unwrap()
}

/// Runs `test` on a thread with a mount namespace of its own.
fn story<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    apart(|| {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(test());
    });
}

#[test]
fn a_pod_waits_for_its_identity_then_for_its_secret_and_hears_why() {
    story(|| async {
        let (node, record) = (Node::new(), record());
        let AgentReply::Waiting { reason } = node.attach(&record, 10).await else {
            panic!("there is no identity yet");
        };
        assert!(reason.contains("no SPIRE entry"), "{reason}");
        let held = node.attach(&record, 10_000);
        let wakes = async {
            node.issue();
            node.say(said(1, "{}")).await;
        };
        let (reply, ()) = tokio::join!(held, wakes);
        assert_eq!(reply, AgentReply::Ready);
    });
}

#[test]
fn an_attach_that_waits_ends_when_the_identity_is_withdrawn() {
    story(|| async {
        let (node, record) = (Node::new(), record());
        node.issue();
        let held = node.attach(&record, 10_000);
        let (reply, ()) = tokio::join!(held, async {
            tokio::task::yield_now().await;
            node.withdraw();
        });
        assert!(matches!(reply, AgentReply::Withdrawn { .. }), "{reply:?}");
        assert!(node.volumes.get(&record.volume).is_none());
    });
}

#[test]
fn an_optional_volume_is_ready_at_once_and_empty_until_the_secret_exists() {
    story(|| async {
        let (node, mut record) = (Node::new(), record());
        record.options.gate = Gating::Optional;
        assert_eq!(node.attach(&record, 10).await, AgentReply::Ready);
        let mount = node.serving_volume(&record).await;
        node.issue();
        node.say(said(1, "{\"a\":\"x\"}")).await;
        node.until(&record, "the secret", |status| status.files == 2)
            .await;
        let text = tokio::task::spawn_blocking(move || mount.text("a")).await;
        assert_eq!(text.unwrap(), "x");
    });
}

#[test]
fn content_follows_its_secret_and_goes_with_it() {
    story(|| async {
        let (node, record) = (Node::new(), record());
        node.issue();
        node.say(said(1, "{\"a\":\"x\"}")).await;
        assert_eq!(node.attach(&record, 1000).await, AgentReply::Ready);
        let mount = node.serving_volume(&record).await;
        for revision in 2..=50 {
            node.say(said(revision, &format!("{{\"a\":\"x\",\"r\":{revision}}}")))
                .await;
        }
        let bytes = said(50, "{\"a\":\"x\",\"r\":50}").document().len() as u64 + 3;
        node.until(&record, "the newest", |status| status.bytes == bytes)
            .await;
        let (mount, text) = tokio::task::spawn_blocking(move || {
            let text = mount.text("r");
            (mount, text)
        })
        .await
        .unwrap();
        assert_eq!(text, "50");
        node.say(deleted(51)).await;
        node.until(&record, "the deletion", |status| status.files == 0)
            .await;
        let names =
            tokio::task::spawn_blocking(move || fs::read_dir(mount.root()).unwrap().count());
        assert_eq!(names.await.unwrap(), 2, "..data and the empty version");
    });
}

#[test]
fn without_csi_the_old_version_stays_and_the_newest_comes_with_csi() {
    story(|| async {
        let (node, record) = (Node::new(), record());
        node.issue();
        node.say(said(1, "{\"a\":\"x\"}")).await;
        assert_eq!(node.attach(&record, 1000).await, AgentReply::Ready);
        let (mount, fuse) = Mount::new();
        assert_eq!(
            node.volumes.serve(&record.volume, fuse).await,
            AgentReply::Served
        );
        node.say(said(2, "{\"a\":\"y\"}")).await;
        node.until(&record, "a condition", |status| {
            status
                .condition
                .as_ref()
                .is_some_and(|c| c.contains("csi is not there"))
        })
        .await;
        node.say(said(3, "{\"a\":\"zz\"}")).await;
        node.csi(mount.root()).await;
        let bytes = "{\"a\":\"zz\"}".len() as u64 + 2;
        node.until(&record, "the newest", |status| status.bytes == bytes)
            .await;
    });
}

async fn files_after_a_withdrawal(on_withdraw: OnWithdraw, files: u64) {
    let (node, mut record) = (Node::new(), record());
    record.options.on_withdraw = on_withdraw;
    node.issue();
    node.say(said(1, "{\"a\":\"x\"}")).await;
    assert_eq!(node.attach(&record, 1000).await, AgentReply::Ready);
    let _mount = node.serving_volume(&record).await;
    node.withdraw();
    let is_said = |status: &Status| {
        let condition = status.condition.as_ref();
        condition.is_some_and(|text| text.contains("withdrawn"))
    };
    node.until(&record, "the withdrawal", is_said).await;
    node.say(said(2, "{\"a\":\"x\",\"b\":\"y\"}")).await;
    node.until(&record, "the files", |status| status.files == files)
        .await;
    node.issue();
    node.until(&record, "the identity again", |status| status.files == 3)
        .await;
}

#[test]
fn a_withdrawal_stops_updates_and_leaves_the_files() {
    story(|| files_after_a_withdrawal(OnWithdraw::Keep, 2));
}

#[test]
fn a_withdrawal_takes_the_files_on_request() {
    story(|| files_after_a_withdrawal(OnWithdraw::Revoke, 0));
}

#[test]
fn a_successor_takes_over_what_the_keeper_has_without_spire_and_safe() {
    story(|| async {
        let (node, record) = (Node::new(), record());
        node.issue();
        node.say(said(1, "{\"a\":\"x\"}")).await;
        assert_eq!(node.attach(&record, 1000).await, AgentReply::Ready);
        let mount = node.serving_volume(&record).await;
        let successor = node.successor();
        successor.volumes.recover().await.unwrap();
        let AgentReply::State { serving, files, .. } = successor.volumes.state(&record.volume)
        else {
            panic!("a state was asked for");
        };
        assert_eq!((serving, files), (IsServing::Yes, 2));
        // csi finds out and asks: it is told that all is well
        let descriptor = mount.fuse().try_clone().unwrap();
        let resumed = successor.volumes.resume(&record, descriptor).await;
        assert_eq!(resumed, AgentReply::Served);
    });
}

#[test]
fn nothing_deleted_or_revoked_comes_back_with_a_successor() {
    story(|| async {
        let (node, record) = (Node::new(), record());
        node.issue();
        node.say(said(1, "{\"a\":\"x\"}")).await;
        assert_eq!(node.attach(&record, 1000).await, AgentReply::Ready);
        let _mount = node.serving_volume(&record).await;
        node.say(deleted(2)).await;
        node.until(&record, "the deletion", |status| status.files == 0)
            .await;
        let successor = node.successor();
        successor.volumes.recover().await.unwrap();
        successor
            .until(&record, "recovery", |s| {
                s.serving == IsServing::Yes && s.files == 0
            })
            .await;
    });
}

#[test]
fn a_session_that_ends_without_a_detach_ends_the_process_only_if_the_volume_is_kept() {
    story(|| async {
        let (mut node, record) = (Node::new(), record());
        node.issue();
        node.say(said(1, "{}")).await;
        assert_eq!(node.attach(&record, 1000).await, AgentReply::Ready);
        let mount = node.serving_volume(&record).await;
        tokio::task::spawn_blocking(move || drop(mount))
            .await
            .unwrap();
        node.until(&record, "the end", |status| status.serving == IsServing::No)
            .await;
        let reason = node.fatal.recv().await.unwrap();
        assert!(reason.contains("csi-1"), "{reason}");
    });
}

#[test]
fn detach_is_for_unknown_volumes_too_and_leaves_nothing_at_the_keeper() {
    story(|| async {
        let (node, record) = (Node::new(), record());
        node.volumes.detach(&record.volume).await;
        node.issue();
        assert!(matches!(
            node.attach(&record, 100).await,
            AgentReply::Waiting { .. }
        ));
        assert_eq!(node.kept.lock().unwrap().len(), 1, "the binding");
        node.volumes.detach(&record.volume).await;
        node.volumes.detach(&record.volume).await;
        assert!(node.kept.lock().unwrap().is_empty());
    });
}
