//! Whoever dies: running pods keep their files, and new pods start afterwards.

use crate::support::{
    awaiting::{self, PATIENTLY, SOON},
    container::{Container, VOLUME},
    created::Created,
    helm::SYSTEM,
    installation,
    kubectl::Kubectl,
    node::{self, Node},
    part::{
        self, CSI, KEEPER, NODE_AGENT, Part, SAFE, SPIRE_AGENT, SPIRE_SERVER,
        node_agents_server_dies, nothing_is_left_of,
    },
    pod::Pod,
    reader, secret,
    story::Story,
};

const STORY: &str = "s07_pods_outlive_every_death";

const VALUE: &str = "a value that outlives";

/// Where the container `bound` has the one file, bound by the kubelet.
const BOUND: &str = "/etc/bound";

/// Who dies, and how.
type Death<'a> = (&'static str, Box<dyn Fn() + 'a>);

const READERS: [&str; 2] = ["reader", "bound"];

/// A pod of a node that reads all the time, by the volume and by a bind of one file.
struct Reading {
    pod: Created,
    good: Vec<u64>,
}

impl Reading {
    #[track_caller]
    fn begin(story: &Story, node: &str) -> Self {
        let check = format!("[ \"$v\" = \"{VALUE}\" ]");
        let file = format!("{VOLUME}/secrets.json");
        let bound = reader::container("bound", BOUND, &check);
        let pod = Pod::of("web").named(&format!("reading-{node}")).on(node).containers([
            Container::idle("main"),
            reader::container("reader", &file, &check),
            bound.without_volume().sub_path("secrets.json", BOUND),
        ]);
        let pod = story.create(&pod);
        pod.ready(SOON);
        let mut reading = Self { pod, good: vec![0; READERS.len()] };
        reading.goes_on("its beginning");
        reading
    }

    /// Each reader has read since the last time, and never in vain.
    #[track_caller]
    fn goes_on(&mut self, after: &str) {
        for (reader, good) in READERS.iter().zip(&mut self.good) {
            let tally = reader::tally(&self.pod, reader, *good);
            assert!(tally.failures.is_empty(), "after {after}, {reader}: {:?}", tally.failures);
            *good = tally.good;
        }
    }

    #[track_caller]
    fn end(self) -> Created {
        for reader in READERS {
            assert_eq!(self.pod.restarts(reader), 0, "{reader} was started again");
        }
        self.pod
    }
}

/// A pod that comes now gets its files.
#[track_caller]
fn a_new_pod_starts(story: &Story, node: &str, number: usize) -> Created {
    let pod = story.create(&Pod::of("web").named(&format!("new-{number}")).on(node));
    pod.ready(PATIENTLY);
    assert_eq!(pod.read("secrets.json"), VALUE);
    pod
}

/// Its pod is deleted, and another one is ready.
#[track_caller]
fn pod_goes(part: Part, node: &str) {
    let pod = part.pod(Some(node));
    Kubectl::namespace(SYSTEM).delete("pod", pod.name(), SOON);
    part.pod(Some(node)).ready(SOON);
}

#[test]
fn whatever_dies_no_read_fails_and_new_pods_start_afterwards() {
    let story = Story::begin(STORY);
    let Some(nodes) = node::all(STORY) else { return };
    let (node, name) = (&nodes[0], nodes[0].name());
    story.register("web", VALUE);
    let mut reading = Reading::begin(&story, name);

    let again = |process: &'static str| {
        Box::new(move || {
            node.kill(process);
            node.start(process);
        })
    };
    let deaths: [Death<'_>; 11] = [
        ("kubelet", again("kubelet")),
        ("containerd", again("containerd")),
        ("node-agent's server", Box::new(|| node_agents_server_dies(name))),
        ("node-agent with its supervisor", Box::new(|| NODE_AGENT.dies(Some(name)))),
        ("csi", Box::new(|| CSI.dies(Some(name)))),
        ("the keeper", Box::new(|| KEEPER.dies(Some(name)))),
        ("the keeper with its pod", Box::new(|| pod_goes(KEEPER, name))),
        ("node-agent's server, after the keeper", Box::new(|| node_agents_server_dies(name))),
        ("SPIRE's agent", Box::new(|| SPIRE_AGENT.dies(Some(name)))),
        ("SPIRE's server", Box::new(|| SPIRE_SERVER.dies(None))),
        ("safe", Box::new(|| SAFE.dies(None))),
    ];
    let mut pods = Vec::new();
    for (number, (who, death)) in deaths.iter().enumerate() {
        let began = std::time::Instant::now();
        death();
        let pod = a_new_pod_starts(&story, name, number);
        reading.goes_on(who);
        println!("{who}: a new pod was ready {:?} after the death", began.elapsed());
        pod.begin_delete();
        pods.push(pod);
    }
    installation::ready();
    let pod = reading.end();
    pod.begin_delete();
    pods.push(pod);
    nothing_is_left_of(&pods);
}

/// The node's pod is deleted, and every node's is replaced by a rollout, in which the new one
/// stands by until the old one has gone.
#[test]
fn the_nodes_pod_is_replaced_and_no_read_fails() {
    let story = Story::begin(STORY);
    let Some(nodes) = node::all(STORY) else { return };
    story.register("web", VALUE);
    let begin = |node: &Node| Reading::begin(&story, node.name());
    let mut readings: Vec<_> = nodes.iter().map(begin).collect();
    let system = Kubectl::namespace(SYSTEM);

    let name = nodes[0].name();
    let before = NODE_AGENT.pod(Some(name));
    system.delete("pod", before.name(), SOON);
    let mut pods = vec![a_new_pod_starts(&story, name, 0)];
    readings[0].goes_on("the deletion of the node's pod");

    let old: Vec<_> = nodes.iter().map(|n| NODE_AGENT.pod(Some(n.name()))).collect();
    assert_ne!(old[0].uid(), before.uid());
    system.run(["rollout", "restart", "daemonset/vsecm-node"]).ok();
    installation::ready();
    for (number, (node, old)) in nodes.iter().zip(&old).enumerate() {
        let new = NODE_AGENT.pod(Some(node.name()));
        assert_ne!(new.uid(), old.uid(), "the rollout replaced the pod of {}", node.name());
        let log = new.log("node-agent");
        assert!(log.contains("standing by until"), "the new pod did not stand by: {log}");
        pods.push(a_new_pod_starts(&story, node.name(), number + 1));
        readings[number].goes_on("the rollout");
    }
    pods.extend(readings.into_iter().map(Reading::end));
    pods.iter().for_each(Created::begin_delete);
    nothing_is_left_of(&pods);
}

/// Safe, SPIRE and one of the secrets are gone; so are the kubelet and node-agent for a moment.
#[test]
fn a_crashed_container_starts_again_when_nobody_else_is_there() {
    let story = Story::begin(STORY);
    let Some(nodes) = node::all(STORY) else { return };
    let (node, name) = (&nodes[0], nodes[0].name());
    story.register("web", VALUE);
    story.register("deleted", VALUE);
    let mut reading = Reading::begin(&story, name);
    let deleted = story.create(&Pod::of("deleted").on(name));
    deleted.ready(SOON);
    secret::delete(&story.namespace(), "deleted").ok();
    let listed = |pod: &Created| pod.exec("main", &["ls", "-A", VOLUME]).stdout;
    awaiting::until(
        "the end of the deleted secret's files",
        SOON,
        || !listed(&deleted).contains("secrets.json"),
        || listed(&deleted),
    );
    story.at_the_end(installation::ready);
    for part in [SAFE, SPIRE_SERVER, SPIRE_AGENT] {
        story.at_the_end(part::away(part));
    }

    reading.goes_on("the departure of safe and SPIRE");
    node.kill("kubelet");
    node_agents_server_dies(name);
    for pod in [&reading.pod, &deleted] {
        part::end_container(&pod.container_id("main"));
    }
    node.start("kubelet");
    for pod in [&reading.pod, &deleted] {
        awaiting::until(
            &format!("another run of main in {}", pod.name()),
            PATIENTLY,
            || pod.restarts("main") == 1,
            || pod.describe(),
        );
        pod.ready(PATIENTLY);
    }
    assert_eq!(reading.pod.read("secrets.json"), VALUE);
    assert!(!listed(&deleted).contains("secrets.json"), "what was deleted came back");
    reading.goes_on("the end of everybody");
    let pods = [reading.end(), deleted];
    pods.iter().for_each(Created::begin_delete);
    nothing_is_left_of(&pods);
}
