//! The life of a volume, with a real keeper, real mounts, and a node-agent that does as it is told.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{sync::watch, task::JoinHandle};
use vsecm_node_agent_api::{
    channel::Listener,
    frame::{
        AgentReply, AgentRequest, Descriptor, Gravity, Order, OrderOutcome, OrderReply, Serving,
        Step,
    },
    items::Items,
    peer::PeerRule,
    volume::{Audit, Gate, InodeKey, Layout, OnRotate, OnWithdraw, PodRef, VolumeOptions},
};

use super::*;

mod deaths;
mod orders;
mod pinned;
mod stats;
mod up_and_down;
mod waits;

use crate::{
    duty, keeper,
    mount::{
        Occupant,
        lab::{ALL, Node, RENAME, Server, in_private_namespace},
    },
};

pub(crate) fn mk_record(pod: usize) -> VolumeRecord {
    let target = format!("pods/{pod}/volumes/kubernetes.io~csi/v/mount");
    VolumeRecord {
        volume: format!("csi-{pod}").parse().unwrap(),
        pod: PodRef {
            namespace: "shop".parse().unwrap(),
            name: "web-0".parse().unwrap(),
            uid: pod.to_string().parse().unwrap(),
            service_account: "default".parse().unwrap(),
        },
        options: VolumeOptions {
            layout: Layout::Files,
            document: "secrets.json".parse().unwrap(),
            items: Items::default(),
            mode: 0o444.try_into().unwrap(),
            gate: Gate::Required,
            on_withdraw: OnWithdraw::Keep,
            audit: Audit::Off,
            on_rotate: OnRotate::Follow,
            group: None,
        },
        target,
        inode_key: InodeKey::from_random([7; 16]),
    }
}

fn own() -> PeerRule {
    PeerRule::Uid(rustix::process::geteuid().as_raw())
}

fn door(name: &'static str, dir: &Path) -> Door {
    Door { name, socket: dir.join(name), rule: own() }
}

/// What the fake node-agent has been asked, and what it serves.
#[derive(Default)]
struct Agent {
    gate: Option<AgentReply>,
    served: HashMap<VolumeId, Option<Server>>,
    asked: Vec<&'static str>,
    /// The milliseconds of each attach.
    holds: Vec<u64>,
    /// Whether it takes calls and answers none, like a process that is stopped.
    is_mute: bool,
    /// How often it will refuse to resume.
    refusals: usize,
    orders: Vec<Order>,
    replies: watch::Sender<Vec<OrderReply>>,
}

async fn run_agent(listener: Listener, agent: Arc<Mutex<Agent>>) {
    let mut conversations = JoinSet::new();
    loop {
        let (connection, _peer) = listener.accept().await.unwrap();
        let agent = Arc::clone(&agent);
        conversations.spawn(async move {
            let Ok(Some((request, mut fds))) = connection.receive::<AgentRequest>().await else {
                return;
            };
            let (name, reply) = match request {
                AgentRequest::Attach { hold_ms, .. } => {
                    lock(&agent).holds.push(hold_ms);
                    ("attach", lock(&agent).gate.clone())
                }
                AgentRequest::Serve { volume, .. } => {
                    let server = Server::start(fds.remove(0));
                    server.add("..1", Node::Folder(BTreeMap::new()));
                    server.add("..1/a", Node::File);
                    lock(&agent).served.insert(volume, Some(server));
                    ("serve", Some(AgentReply::Served))
                }
                AgentRequest::Resume { .. } if lock(&agent).refusals > 0 => {
                    lock(&agent).refusals -= 1;
                    let reason = "its content is not known".to_owned();
                    ("refused", Some(AgentReply::Refused { reason }))
                }
                AgentRequest::Resume { record } => {
                    lock(&agent).served.insert(record.volume, None);
                    ("resume", Some(AgentReply::Served))
                }
                AgentRequest::Detach { volume } => {
                    lock(&agent).served.remove(&volume);
                    ("detach", Some(AgentReply::Done))
                }
                AgentRequest::State { volume } => {
                    let serves = lock(&agent).served.contains_key(&volume);
                    let serving = if serves { Serving::Yes } else { Serving::No };
                    let (condition, gravity, bytes, files) = (None, Gravity::Passing, 10, 2);
                    let state = AgentReply::State { serving, condition, gravity, bytes, files };
                    ("state", Some(state))
                }
                AgentRequest::Volumes { .. } => {
                    ("volumes", Some(AgentReply::Volumes { volumes: Vec::new() }))
                }
                AgentRequest::Duty => ("duty", Some(AgentReply::Done)),
            };
            lock(&agent).asked.push(name);
            let is_mute = lock(&agent).is_mute;
            match reply.filter(|_| !is_mute) {
                Some(reply) => connection.send(&reply, &[]).await.unwrap(),
                None => connection.closed().await,
            }
            if name == "duty" {
                let orders = lock(&agent).orders.clone();
                for order in orders {
                    connection.send(&order, &[]).await.unwrap();
                }
                while let Ok(Some((reply, _))) = connection.receive::<OrderReply>().await {
                    lock(&agent).replies.send_modify(|all| all.push(reply));
                }
            }
        });
    }
}

pub(crate) struct Bench {
    pub(crate) dir: PathBuf,
    pub(crate) volumes: Arc<Volumes>,
    agent: Arc<Mutex<Agent>>,
    agent_task: JoinHandle<()>,
    keeper_task: JoinHandle<()>,
}

fn run_keeper(dir: &Path) -> JoinHandle<()> {
    let args = keeper::Args {
        socket: dir.join("keeper"),
        csi_peer: own(),
        node_agent_peer: PeerRule::Executable("nobody".to_owned()),
    };
    let listener = Listener::bind(&args.socket).unwrap();
    tokio::spawn(async move { keeper::serve(listener, &args).await })
}

pub(crate) fn mk_volumes(dir: &Path) -> Arc<Volumes> {
    let volumes = mk_unrecovered(dir);
    volumes.recovered.cancel();
    volumes
}

fn mk_unrecovered(dir: &Path) -> Arc<Volumes> {
    Volumes::new(mk_means(dir))
}

fn mk_means(dir: &Path) -> Means {
    let (agent, keeper) = (door("node-agent", dir), door("keeper", dir));
    let (kubelet, stop) = (Kubelet::open(dir).unwrap(), CancellationToken::new());
    let holds = Holds { first: Duration::from_secs(8), later: Duration::from_secs(110) };
    Means { agent, keeper, kubelet, label: None, holds, stop }
}

fn mk_bench(dir: &Path) -> Bench {
    let agent = Arc::new(Mutex::new(Agent { gate: Some(AgentReply::Ready), ..Agent::default() }));
    let listener = Listener::bind(&dir.join("node-agent")).unwrap();
    Bench {
        dir: dir.to_owned(),
        volumes: mk_volumes(dir),
        agent_task: tokio::spawn(run_agent(listener, Arc::clone(&agent))),
        agent,
        keeper_task: run_keeper(dir),
    }
}

impl Bench {
    fn occupant(&self) -> Occupant {
        self.volumes.kubelet.occupant(&mk_record(1).target.parse().unwrap()).unwrap()
    }

    pub(crate) async fn publish(&self) -> Result<(), Trouble> {
        self.volumes.publish(mk_record(1)).await
    }

    async fn unpublish(&self) -> Result<(), Trouble> {
        let record = mk_record(1);
        self.volumes.unpublish(record.volume, record.target.parse().unwrap()).await
    }

    fn asked(&self) -> Vec<&'static str> {
        lock(&self.agent).asked.split_off(0)
    }

    async fn kept(&self) -> Vec<Descriptor> {
        let keeper = &self.volumes.keeper;
        let connection = keeper.dial().await.unwrap();
        let mut kept = Vec::new();
        for which in [Descriptor::Fuse, Descriptor::Mount] {
            let fd = keeper.descriptor(&connection, &mk_record(1).volume, which).await.unwrap();
            kept.extend(fd.map(|_| which));
        }
        kept
    }
}

/// Waits for a state that others bring about.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let so = async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), so).await.unwrap_or_else(|_late| panic!("never: {what}"));
}

pub(crate) fn story<F: Future<Output = ()>>(test: impl FnOnce(Bench) -> F + Send) {
    in_private_namespace(|dir| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { test(mk_bench(dir)).await });
        runtime.shutdown_timeout(Duration::from_secs(5));
    });
}
