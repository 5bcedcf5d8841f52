//! csi is privileged and works on trees that it does not serve. A node-agent that was taken over
//! shows trees no honest server would show: csi must not touch anything outside its own mount, and
//! must go on working for the kubelet.

use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use tempfile::TempDir;
use tokio::sync::mpsc;
use vsecm_node_agent_api::{
    channel::{Connection, Listener},
    frame::{AgentReply, AgentRequest, Gravity, Order, OrderOutcome, OrderReply, Serving, Step},
    volume::VolumeId,
};
use vsecm_tests::{
    PodSpec, awaiting::until, binaries, fuse::require_fuse, kubelet::Kubelet, mounts, story::SOON,
};

use crate::support::hostile::{Node, Service, Tree, serve};

/// csi and its keeper alone, with a node-agent of ours. Everything has our uid, so the peers are
/// told by it.
struct Stage {
    services: Arc<Mutex<Vec<Service>>>,
    children: Vec<Child>,
    folder: TempDir,
    duty: mpsc::UnboundedReceiver<Connection>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        // first: a thread of csi that hangs in a request keeps even a killed process from its end
        self.services.lock().unwrap().clear();
        for child in &mut self.children {
            let _gone: std::io::Result<()> = child.kill();
            let _reaped: std::io::Result<_> = child.wait();
        }
        let _detached: std::io::Result<usize> = mounts::detach_below(self.folder.path());
    }
}

impl Stage {
    async fn set(tree: Tree) -> Self {
        require_fuse().unwrap();
        let folder = TempDir::with_prefix("vsecm-").unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("kubelet")).unwrap();
        let own = format!("uid:{}", rustix::process::geteuid().as_raw());
        let listener = Listener::bind(&at("agent")).unwrap();
        let (hand_over, duty) = mpsc::unbounded_channel();
        let services = Arc::new(Mutex::new(Vec::new()));
        let own_services = Arc::clone(&services);
        tokio::spawn(async move {
            loop {
                let (connection, _peer) = listener.accept().await.unwrap();
                let agent = Agent {
                    tree: tree.clone(),
                    services: Arc::clone(&own_services),
                    duties: hand_over.clone(),
                };
                tokio::spawn(agent.converse(connection));
            }
        });
        let mut stage = Self { services, children: vec![], folder, duty };
        let keeper = stage.at("keeper");
        let agent = stage.at("agent");
        let kubelet = stage.at("kubelet");
        let endpoint = format!("unix://{}", stage.at("csi").display());
        stage.spawn("vsecm-keeper", |command| {
            command.arg("--socket").arg(&keeper).args([
                "--csi-peer",
                &own,
                "--node-agent-peer",
                &own,
            ]);
        });
        until("the keeper's socket", SOON, || keeper.exists()).await.unwrap();
        stage.spawn("vsecm-csi", |command| {
            command
                .args(["--endpoint", &endpoint, "--node-name", "n", "--hold", "2"])
                .arg("--kubelet-dir")
                .arg(&kubelet)
                .arg("--node-agent-socket")
                .arg(&agent)
                .arg("--keeper-socket")
                .arg(&keeper)
                .args(["--node-agent-peer", &own, "--keeper-peer", &own]);
        });
        until("csi's socket", SOON, || stage.at("csi").exists()).await.unwrap();
        stage
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn spawn(&mut self, binary: &str, arguments: impl FnOnce(&mut Command)) {
        let mut command = Command::new(binaries::built().unwrap().join(binary));
        arguments(&mut command);
        let log = fs::File::create(self.at(&format!("{binary}.log"))).unwrap();
        let child = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
        self.children.push(child);
    }

    /// Orders a swap from `..1` to `..2` as soon as csi is there to take it.
    async fn order(&mut self, volume: &str) -> OrderOutcome {
        let duty = tokio::time::timeout(SOON, self.duty.recv()).await.unwrap().unwrap();
        let order = Order {
            id: 7,
            volume: volume.parse::<VolumeId>().unwrap(),
            step: Step::Publish {
                dir: "..2".parse().unwrap(),
                replaced: vec!["..1".parse().unwrap()],
            },
        };
        duty.send(&order, &[]).await.unwrap();
        let (reply, _none): (OrderReply, Vec<OwnedFd>) =
            tokio::time::timeout(SOON, duty.receive()).await.unwrap().unwrap().unwrap();
        assert_eq!(reply.id, 7);
        reply.outcome
    }
}

/// node-agent's side: everything is fine.
struct Agent {
    tree: Tree,
    services: Arc<Mutex<Vec<Service>>>,
    duties: mpsc::UnboundedSender<Connection>,
}

impl Agent {
    async fn converse(self, connection: Connection) {
        while let Ok(Some((request, mut descriptors))) = connection.receive().await {
            let reply = match request {
                AgentRequest::Attach { .. } => AgentReply::Ready,
                AgentRequest::Serve { .. } | AgentRequest::Resume { .. } => {
                    let (device, tree) = (descriptors.remove(0), self.tree.clone());
                    let serving = tokio::task::spawn_blocking(move || serve(device, tree));
                    let service = serving.await.unwrap();
                    self.services.lock().unwrap().push(service);
                    AgentReply::Served
                }
                AgentRequest::State { .. } => AgentReply::State {
                    serving: Serving::Yes,
                    condition: None,
                    gravity: Gravity::Passing,
                    bytes: 0,
                    files: 0,
                },
                AgentRequest::Detach { .. } => AgentReply::Done,
                AgentRequest::Volumes { .. } => AgentReply::Volumes { volumes: Vec::new() },
                AgentRequest::Duty => {
                    connection.send(&AgentReply::Done, &[]).await.unwrap();
                    let _kept: Result<(), _> = self.duties.send(connection);
                    return;
                }
            };
            if connection.send(&reply, &[]).await.is_err() {
                return;
            }
        }
    }
}

/// A folder outside of any volume, which must stay as it is.
fn victim() -> TempDir {
    let folder = TempDir::with_prefix("victim-").unwrap();
    fs::write(folder.path().join("precious"), "untouched").unwrap();
    fs::create_dir(folder.path().join("..1")).unwrap();
    folder
}

fn is_untouched(victim: &Path) {
    let mut names: Vec<_> = fs::read_dir(victim).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["..1", "precious"]);
    assert_eq!(fs::read_to_string(victim.join("precious")).unwrap(), "untouched");
}

/// Publishes a volume on `tree`, orders a swap, and takes the volume down again.
async fn endure(tree: Tree, victim: &Path) -> OrderOutcome {
    let mut stage = Stage::set(tree).await;
    let kubelet = Kubelet::new(stage.at("kubelet"), stage.at("csi"));
    let link = stage.at("pods/web/vsecm");
    let admitted = kubelet.admit(PodSpec::new("web"), "u1".into(), stage.at("none"), &link);
    let pod = admitted.unwrap();
    pod.ready(SOON).await.unwrap();
    let outcome = stage.order(&pod.volume_id()).await;
    is_untouched(victim);
    kubelet.evict(&pod, &link, Duration::from_secs(15)).await.unwrap();
    assert!(mounts::below(stage.folder.path()).unwrap().is_empty());
    is_untouched(victim);
    outcome
}

fn failed(outcome: &OrderOutcome) {
    assert!(matches!(outcome, OrderOutcome::Failed { .. }), "{outcome:?}");
}

/// A string that lives as long as the process: trees are shared with threads that may hang for ever.
fn forever(path: &Path) -> &'static str {
    Box::leak(path.display().to_string().into_boxed_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_symlink_in_place_of_the_new_version_is_not_followed() {
    let victim = victim();
    let tree = Tree::new().with(1, "..2", 2, Node::Link(forever(victim.path()))).with(
        1,
        "..1",
        3,
        Node::Folder(vec![]),
    );
    failed(&endure(tree, victim.path()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_at_the_root_that_lead_away_are_not_removed() {
    let victim = victim();
    let away = victim.path().join("precious").display().to_string();
    for name in [away.as_str(), "../../../precious", "..x.y"] {
        // the new version has no such name, so csi is to remove it from the root
        let mut tree = Tree::new().with(1, "..2", 2, Node::Folder(vec![]));
        tree.nodes.insert(1, Node::Folder(vec![b"..2".to_vec(), name.into()]));
        failed(&endure(tree, victim.path()).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_lead_away_are_not_taken() {
    let victim = victim();
    let away = victim.path().join("precious").display().to_string();
    for names in [
        vec![away.clone().into_bytes()],
        vec![b"../../../precious".to_vec()],
        vec![b"..data".to_vec(), b"..1".to_vec()],
        vec![b"\xff\xfe".to_vec()],
        vec![vec![b'x'; 255], b"..".to_vec(), b"..x".to_vec()],
    ] {
        let mut tree = Tree::new().with(1, "..2", 2, Node::Folder(names.clone())).with(
            1,
            "..1",
            3,
            Node::Folder(names),
        );
        tree.nodes.insert(9, Node::File);
        failed(&endure(tree, victim.path()).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_folder_is_not_read_to_its_end() {
    let victim = victim();
    let names = (0..100_000).map(|n| format!("f{n}").into_bytes()).collect();
    let tree =
        Tree::new().with(1, "..2", 2, Node::Folder(names)).with(1, "..1", 3, Node::Folder(vec![]));
    failed(&endure(tree, victim.path()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_answers_holds_up_neither_the_reply_nor_the_unpublish() {
    let victim = victim();
    let mut tree = Tree::new().with(1, "..1", 3, Node::Folder(vec![]));
    tree.hang_at = Some("..2");
    failed(&endure(tree, victim.path()).await);
}
