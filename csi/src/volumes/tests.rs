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
    frame::{AgentReply, AgentRequest, Descriptor, Order, OrderOutcome, OrderReply, Serving, Step},
    peer::PeerRule,
    volume::{Audit, Gate, Layout, OnRotate, OnWithdraw, PodRef, VolumeOptions},
};

use super::*;
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
            mode: 0o444.try_into().unwrap(),
            gate: Gate::Required,
            on_withdraw: OnWithdraw::Keep,
            audit: Audit::Off,
            on_rotate: OnRotate::Follow,
            group: None,
        },
        target,
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
    /// How often it will refuse to resume.
    refusals: usize,
    orders: Vec<Order>,
    replies: watch::Sender<Vec<OrderReply>>,
}

async fn run_agent(listener: Listener, agent: Arc<Mutex<Agent>>) {
    let mut conversations = tokio::task::JoinSet::new();
    loop {
        let (connection, _peer) = listener.accept().await.unwrap();
        let agent = Arc::clone(&agent);
        conversations.spawn(async move {
            let Ok(Some((request, mut fds))) = connection.receive::<AgentRequest>().await else {
                return;
            };
            let (name, reply) = match request {
                AgentRequest::Attach { .. } => ("attach", lock(&agent).gate.clone()),
                AgentRequest::Serve { volume } => {
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
                    let (condition, bytes, files) = (None, 10, 2);
                    ("state", Some(AgentReply::State { serving, condition, bytes, files }))
                }
                AgentRequest::Duty => ("duty", Some(AgentReply::Done)),
            };
            lock(&agent).asked.push(name);
            match reply {
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
    let kubelet = Kubelet::open(dir).unwrap();
    let doors = (door("node-agent", dir), door("keeper", dir));
    Volumes::new(doors, kubelet, Duration::from_secs(20), CancellationToken::new())
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

pub(crate) fn story<F: Future<Output = ()>>(test: impl FnOnce(Bench) -> F + Send) {
    in_private_namespace(|dir| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { test(mk_bench(dir)).await });
        runtime.shutdown_timeout(Duration::from_secs(5));
    });
}

#[test]
fn a_publish_attaches_a_served_volume_and_deposits_both_descriptors() {
    story(|bench| async move {
        bench.publish().await.unwrap();
        assert_eq!(bench.asked(), ["attach", "serve", "state"]);
        assert_eq!(bench.occupant(), Occupant::Ours);
        assert_eq!(bench.kept().await, [Descriptor::Fuse, Descriptor::Mount]);
        lock(&bench.agent).gate = None;
        bench.publish().await.expect("never gated again");
        assert_eq!(bench.asked(), ["state"]);
        lock(&bench.agent).served.clear();
        bench.publish().await.unwrap();
        assert_eq!(bench.asked(), ["state", "resume"]);
    });
}

#[test]
fn an_unpublish_leaves_nothing_and_succeeds_twice_and_with_no_peer() {
    story(|bench| async move {
        bench.unpublish().await.unwrap();
        bench.publish().await.unwrap();
        bench.unpublish().await.unwrap();
        assert_eq!(bench.occupant(), Occupant::Free);
        assert!(!bench.dir.join(mk_record(1).target).exists());
        assert_eq!(bench.kept().await, []);
        assert!(lock(&bench.agent).served.is_empty());
        bench.unpublish().await.unwrap();
        bench.publish().await.unwrap();
        bench.agent_task.abort();
        bench.keeper_task.abort();
        fs::remove_file(bench.dir.join("node-agent")).unwrap();
        fs::remove_file(bench.dir.join("keeper")).unwrap();
        bench.unpublish().await.unwrap();
        assert_eq!(bench.occupant(), Occupant::Free);
    });
}

#[test]
fn a_wait_ends_with_the_reason_and_leaves_nothing() {
    story(|bench| async move {
        let reason = "no secret named web in Safe yet: safe -w web -n shop -s -".to_owned();
        for gate in [
            AgentReply::Waiting { reason: reason.clone() },
            AgentReply::Withdrawn { reason: reason.clone() },
        ] {
            lock(&bench.agent).gate = Some(gate);
            assert_eq!(bench.publish().await.unwrap_err().to_string(), reason);
            assert_eq!(bench.occupant(), Occupant::Free);
            assert_eq!(bench.kept().await, []);
        }
    });
}

#[test]
fn a_dropped_call_stops_no_publish_and_a_second_one_finds_its_result() {
    story(|bench| async move {
        tokio::select! {
            biased;
            done = bench.publish() => panic!("the first call is given up at once: {done:?}"),
            () = std::future::ready(()) => {}
        }
        bench.publish().await.unwrap();
        let asked = bench.asked();
        assert_eq!(asked.iter().filter(|a| **a == "attach").count(), 1, "{asked:?}");
    });
}

#[test]
fn an_unpublish_ends_the_wait_of_a_publish() {
    story(|bench| async move {
        lock(&bench.agent).gate = None;
        let (up, down) = tokio::join!(biased; bench.publish(), bench.unpublish());
        assert!(matches!(up, Err(Trouble::Cancelled)), "{up:?}");
        down.unwrap();
        lock(&bench.agent).gate = Some(AgentReply::Ready);
        bench.publish().await.expect("a later publish is not cancelled");
    });
}

#[test]
fn a_publish_outlives_a_node_agent_that_is_away_for_a_moment() {
    story(|bench| async move {
        bench.agent_task.abort();
        let socket = bench.dir.join("node-agent");
        fs::remove_file(&socket).unwrap();
        let back = async {
            tokio::task::yield_now().await;
            let listener = Listener::bind(&socket).unwrap();
            tokio::spawn(run_agent(listener, Arc::clone(&bench.agent)));
        };
        let (up, ()) = tokio::join!(bench.volumes.publish(mk_record(1)), back);
        up.unwrap();
    });
}

#[test]
fn a_successor_of_csi_takes_everything_from_the_keeper() {
    story(|bench| async move {
        bench.publish().await.unwrap();
        let successor = mk_volumes(&bench.dir);
        successor.recover().await;
        let held = successor.held(&mk_record(1).volume).unwrap();
        assert!(held.fuse.is_some() && held.writable.is_some());
        bench.asked();
        successor.publish(mk_record(1)).await.unwrap();
        assert_eq!(bench.asked(), ["state"]);

        let target = mk_record(1).target.parse().unwrap();
        bench.volumes.kubelet.clear(&target).unwrap();
        let late = mk_volumes(&bench.dir);
        late.recover().await;
        assert!(late.ids().is_empty(), "its target is mounted no more");
        assert_eq!(bench.kept().await, []);
    });
}

#[test]
fn a_clone_that_the_keeper_lacks_is_made_again() {
    story(|bench| async move {
        bench.publish().await.unwrap();
        let volume = mk_record(1).volume;
        lock(&bench.volumes.state.held).get_mut(&volume).unwrap().writable = None;
        let keeper = bench.volumes.keeper.dial().await.unwrap();
        bench.volumes.keeper.remove_volume(&keeper, &volume).await.unwrap();
        bench.volumes.settle(&volume).await.unwrap();
        assert_eq!(bench.kept().await, [Descriptor::Fuse]);
        let successor = mk_volumes(&bench.dir);
        successor.recover().await;
        assert!(successor.held(&volume).unwrap().writable.is_some());
    });
}

#[test]
fn a_keeper_that_lost_everything_gets_it_back() {
    story(|bench| async move {
        bench.publish().await.unwrap();
        let settled = tokio::spawn(Arc::clone(&bench.volumes).stay_settled());
        bench.keeper_task.abort();
        let _keeper = run_keeper(&bench.dir);
        let whole = async {
            while bench.kept().await.len() < 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), whole).await.unwrap();
        settled.abort();
    });
}

#[test]
fn a_mount_of_ours_that_nobody_serves_is_replaced_and_a_foreign_one_is_not() {
    story(|bench| async move {
        bench.publish().await.unwrap();
        let stranger = mk_volumes(&bench.dir);
        lock(&bench.agent).served.clear();
        bench.asked();
        stranger.publish(mk_record(1)).await.unwrap();
        let asked = bench.asked();
        assert_eq!(asked, ["state", "detach", "attach", "serve", "state"]);
        let other = VolumeRecord { volume: "csi-other".parse().unwrap(), ..mk_record(1) };
        let error = stranger.publish(other).await.unwrap_err();
        assert!(matches!(error, Trouble::Occupied(_)), "{error}");
    });
}

#[test]
fn an_order_swaps_and_a_server_that_hangs_hangs_one_thread_only() {
    story(|bench| async move {
        bench.publish().await.unwrap();
        let step = Step::Publish { dir: "..1".parse().unwrap(), replaced: vec![] };
        let order =
            |id, volume: &str| Order { id, volume: volume.parse().unwrap(), step: step.clone() };
        lock(&bench.agent).orders = vec![order(1, "csi-1"), order(2, "csi-unknown")];
        let on_duty = tokio::spawn(duty::run(Arc::clone(&bench.volumes)));
        let mut replies = lock(&bench.agent).replies.subscribe();
        let both = replies.wait_for(|all| all.len() == 2).await.unwrap().clone();
        let outcome = |id| both.iter().find(|r| r.id == id).map(|r| r.outcome.clone());
        assert_eq!(outcome(1), Some(OrderOutcome::Swapped));
        assert_eq!(outcome(2), Some(OrderOutcome::UnknownVolume));
        on_duty.abort();

        let held = bench.volumes.held(&mk_record(1).volume).unwrap();
        let silent = |opcode| {
            let agent = lock(&bench.agent);
            agent.served.values().flatten().for_each(|server| server.be_silent_on(opcode));
        };
        silent(RENAME);
        let short = Duration::from_millis(50);
        let kubelet = &bench.volumes.kubelet;
        let swap = async || {
            duty::carry_out(short, Arc::clone(kubelet), Some(held.clone()), step.clone()).await
        };
        let failure = |outcome| match outcome {
            OrderOutcome::Failed { reason } => reason,
            other => panic!("{other:?}"),
        };
        let late = failure(swap().await);
        assert!(late.starts_with("no answer"), "{late}");
        let refused = failure(swap().await);
        assert!(refused.starts_with("the swap before"), "{refused}");
        bench.unpublish().await.expect("a hanging swap holds up no unpublish");
        lock(&bench.agent).served.clear();
        let _free = held.swapping.lock().await;
    });
}

#[test]
fn a_server_that_answers_nothing_at_all_holds_up_neither_publish_nor_unpublish() {
    story(|bench| async move {
        bench.publish().await.unwrap();
        let server = lock(&bench.agent).served.values_mut().find_map(Option::take).unwrap();
        server.be_silent_on(ALL);
        bench.publish().await.unwrap();
        let successor = mk_volumes(&bench.dir);
        successor.recover().await;
        lock(&successor.state.held).values_mut().for_each(|held| held.writable = None);
        successor.publish(mk_record(1)).await.expect("the clone is made without the server");
        bench.unpublish().await.unwrap();
        assert_eq!(bench.occupant(), Occupant::Free);
        drop(server);
    });
}

#[test]
fn a_volume_that_a_new_node_agent_cannot_resume_yet_is_tried_again() {
    story(|bench| async move {
        bench.publish().await.unwrap();
        lock(&bench.agent).served.clear();
        lock(&bench.agent).refusals = 3;
        let on_duty = tokio::spawn(duty::run(Arc::clone(&bench.volumes)));
        let served = async {
            while lock(&bench.agent).served.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), served).await.unwrap();
        on_duty.abort();
    });
}
