//! Packets between a node and safe are dropped: files stay as they were, and what changed meanwhile
//! arrives soon after they pass again.

use std::time::{Duration, Instant};

use crate::support::{
    awaiting::SOON,
    container::{Container, VOLUME},
    created::Created,
    kubectl::text,
    metrics,
    node::{self, Node},
    part::{SAFE, SENTINEL},
    pod::Pod,
    reader,
    story::Story,
};

const STORY: &str = "s11_a_partition_heals";

/// From the healing to the change in the pod.
const ARRIVES: Duration = Duration::from_secs(30);

/// Packets between safe and all that is on a node, but for the operator, who may sit there.
#[derive(Clone, Debug)]
struct Partition {
    node: Node,
    safe: String,
    operator: String,
}

impl Partition {
    #[track_caller]
    fn each(&self, change: &str) {
        for [from, to] in [["--source", "--destination"], ["--destination", "--source"]] {
            let rule = ["FORWARD", from, &self.safe, "!", to, &self.operator, "--jump", "DROP"];
            self.node.exec(&[&["iptables", "--wait", change], &rule[..]].concat()).ok();
        }
    }

    #[track_caller]
    fn begin(&self) {
        self.each("--insert");
    }

    #[track_caller]
    fn end(&self) {
        self.each("--delete");
    }
}

#[test]
fn files_outlive_a_partition_and_a_change_arrives_when_it_heals() {
    let story = Story::begin(STORY);
    let Some(nodes) = node::all(STORY) else { return };
    let safe = SAFE.pod(None);
    let home = safe.node();
    let near = nodes.iter().find(|node| node.name() == home).expect("safe's node");
    let far = nodes.iter().find(|node| node.name() != home).expect("another node");
    let address = |pod: &Created| text(&pod.object().expect("a pod")["status"]["podIP"]);
    story.register("web", "before");
    let create = |node: &Node| {
        let check = r#"[ "$v" = before ] || [ "$v" = meanwhile ] || [ "$v" = after ]"#;
        let reader = reader::container("reader", &format!("{VOLUME}/secrets.json"), check);
        let pod = Pod::of("web").named(&format!("web-{}", node.name())).on(node.name());
        story.create(&pod.containers([Container::idle("main"), reader]))
    };
    let (here, there) = (create(near), create(far));
    here.ready(SOON);
    there.ready(SOON);

    let (safe, operator) = (address(&safe), address(&SENTINEL.pod(None)));
    let partition = Partition { node: far.clone(), safe, operator };
    let healing = partition.clone();
    let healed = std::rc::Rc::new(std::cell::Cell::new(false));
    let is_healed = std::rc::Rc::clone(&healed);
    story.at_the_end(move || {
        if !is_healed.get() {
            healing.end();
        }
    });
    partition.begin();
    story.register("web", "meanwhile");
    here.comes_to_read("secrets.json", "meanwhile", SOON);
    metrics::counts_stale(far.name(), "safe_unreachable", 1);
    let tally = reader::tally(&there, "reader", 0);
    assert_eq!(there.read("secrets.json"), "before", "it came through the partition");

    partition.end();
    healed.set(true);
    let began = Instant::now();
    there.comes_to_read("secrets.json", "meanwhile", ARRIVES);
    println!("the change was there {:?} after the partition healed", began.elapsed());
    story.register("web", "after");
    there.comes_to_read("secrets.json", "after", SOON);
    let tally = reader::tally(&there, "reader", tally.good);
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
}
