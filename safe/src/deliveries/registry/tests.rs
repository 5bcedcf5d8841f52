use vsecm_safe_api::{
    position::{Digest, Lineage},
    state::Format,
};

use super::*;
use crate::deliveries::report::Waiting;

fn at(second: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_000_000 + second).unwrap()
}

fn key(name: &str) -> SecretKey {
    SecretKey::parse("shop", name).unwrap()
}

fn token(byte: u8) -> Token {
    format!("{byte:02x}").repeat(16).parse().unwrap()
}

fn said(workload: &str, pod: &str, revision: u64, origin: Option<Token>) -> Acknowledged {
    Acknowledged {
        id: format!("spiffe://vsecm.com/workload/{workload}/ns/shop/sa/db/n/{pod}").into(),
        key: key(workload),
        pod: Some(pod.parse().unwrap()),
        shown: Shown {
            lineage: Lineage::from_random([7; 16]),
            revision: Revision(revision),
            digest: Some(Digest::of(Format::Json, b"{}")),
        },
        node: "node-1".into(),
        origin,
    }
}

fn pod(name: &str, shows: bool) -> Pod {
    let waiting = (!shows).then(|| Waiting {
        since: at(0),
        reason: "not_registered".into(),
        sentence: "no secret named db".into(),
    });
    Pod {
        name: ("shop".parse().unwrap(), name.parse().unwrap()),
        service_account: "db".into(),
        key: Some(key("db")),
        shows,
        waiting,
    }
}

/// A node agent at work.
struct Agent(Token, u64);

impl Agent {
    fn begin(registry: &mut Registry, origin: u8, second: i64) -> Self {
        let origin = token(origin);
        Self(origin, registry.open(origin, "node-1", at(second)).unwrap())
    }

    fn says(&self, registry: &mut Registry, pods: Vec<Pod>, second: i64) -> Taken {
        let taken = registry.page((self.0, self.1), pods, false, at(second));
        taken.unwrap().expect("the report is whole")
    }

    fn ends(self, registry: &mut Registry, second: i64) {
        registry.close((self.0, self.1), at(second));
    }
}

fn delivered(registry: &mut Registry, second: i64) -> Vec<(String, u64)> {
    let (deliveries, _) = registry.list(None, at(second));
    let row = |d: Delivered| (d.delivery.pod.unwrap().to_string(), d.delivery.revision.0);
    deliveries.into_iter().map(row).collect()
}

fn waiting(registry: &mut Registry, second: i64) -> Vec<String> {
    let (_, waiting) = registry.list(None, at(second));
    waiting.into_iter().map(|waits| waits.pod.name.1.to_string()).collect()
}

fn rows(rows: &[(&str, u64)]) -> Vec<(String, u64)> {
    rows.iter().map(|(pod, revision)| ((*pod).to_owned(), *revision)).collect()
}

#[test]
fn each_pod_has_what_it_acknowledged_last() {
    let mut registry = Registry::default();
    for (pod, revision) in [("db-0", 3), ("db-1", 3), ("db-0", 4)] {
        registry.acknowledge(said("db", pod, revision, None), at(0)).unwrap();
    }
    assert_eq!(delivered(&mut registry, 0), rows(&[("db-0", 4), ("db-1", 3)]));
    let (of_another, _) = registry.list(Some(&key("web")), at(0));
    assert_eq!(of_another, []);
    assert_eq!(registry.counts(at(0)).deliveries, 2);
}

#[test]
fn a_pod_that_a_report_lists_no_longer_is_withdrawn_and_no_other() {
    let mut registry = Registry::default();
    let agent = Agent::begin(&mut registry, 1, 0);
    for pod in ["db-0", "db-1"] {
        registry.acknowledge(said("db", pod, 3, Some(token(1))), at(0)).unwrap();
    }
    let both = vec![pod("db-0", true), pod("db-1", true)];
    assert_eq!(agent.says(&mut registry, both, 1), Taken::default());
    let taken = agent.says(&mut registry, vec![pod("db-1", true)], 2);
    assert_eq!(taken.withdrawn.len(), 1);
    assert!(taken.withdrawn[0].id.ends_with("/n/db-0"), "{taken:?}");
    assert_eq!(delivered(&mut registry, 2), rows(&[("db-1", 3)]));
    // it waits again, as after its files went
    agent.says(&mut registry, vec![pod("db-1", false)], 3);
    assert_eq!(delivered(&mut registry, 3), rows(&[]));
}

#[test]
fn an_acknowledgement_may_overtake_the_report_that_lists_its_pod() {
    let mut registry = Registry::default();
    let agent = Agent::begin(&mut registry, 1, 0);
    agent.says(&mut registry, vec![], 0);
    for pod in ["db-0", "db-1"] {
        registry.acknowledge(said("db", pod, 3, Some(token(1))), at(1)).unwrap();
    }
    // written before the pods were there
    agent.says(&mut registry, vec![], 2);
    assert_eq!(delivered(&mut registry, 2).len(), 2);
    agent.says(&mut registry, vec![pod("db-0", true)], 3);
    // db-1 went before any report could list it
    assert_eq!(delivered(&mut registry, 11), rows(&[("db-0", 3)]));
}

#[test]
fn a_report_speaks_for_its_own_origin_alone() {
    let mut registry = Registry::default();
    let agent = Agent::begin(&mut registry, 1, 0);
    registry.acknowledge(said("db", "db-0", 3, Some(token(1))), at(0)).unwrap();
    registry.acknowledge(said("db", "db-1", 3, None), at(0)).unwrap();
    agent.says(&mut registry, vec![pod("db-0", true)], 1);
    // a taken node agent claims the same node, and says that it has no pods
    let taken = Agent::begin(&mut registry, 2, 2);
    assert_eq!(taken.says(&mut registry, vec![], 3), Taken::default());
    assert_eq!(delivered(&mut registry, 100), rows(&[("db-0", 3), ("db-1", 3)]));
}

#[test]
fn a_pod_that_moved_is_withdrawn_by_its_new_node_only() {
    let mut registry = Registry::default();
    let (old, new) = (Agent::begin(&mut registry, 1, 0), Agent::begin(&mut registry, 2, 0));
    registry.acknowledge(said("db", "db-0", 3, Some(token(1))), at(0)).unwrap();
    old.says(&mut registry, vec![pod("db-0", true)], 1);
    registry.acknowledge(said("db", "db-0", 4, Some(token(2))), at(2)).unwrap();
    new.says(&mut registry, vec![pod("db-0", true)], 3);
    assert_eq!(old.says(&mut registry, vec![], 4), Taken::default());
    assert_eq!(delivered(&mut registry, 5), rows(&[("db-0", 4)]));
    assert_eq!(new.says(&mut registry, vec![], 6).withdrawn.len(), 1);
}

#[test]
fn a_report_is_answered_with_the_pods_that_acknowledged_nothing() {
    let mut registry = Registry::default();
    registry.acknowledge(said("db", "db-1", 3, Some(token(1))), at(0)).unwrap();
    registry.acknowledge(said("db", "db-2", 3, Some(token(2))), at(0)).unwrap();
    let agent = Agent::begin(&mut registry, 1, 0);
    let pods = ["db-0", "db-1", "db-2"].map(|name| pod(name, true));
    let pods = pods.into_iter().chain([pod("db-3", false)]).collect();
    assert_eq!(agent.says(&mut registry, pods, 1).missing, [0, 2], "another's word is not its own");
}

#[test]
fn where_the_pattern_names_no_pod_the_key_speaks_for_all_of_its_pods() {
    let mut registry = Registry::default();
    let agent = Agent::begin(&mut registry, 1, 0);
    let nameless = Acknowledged { pod: None, ..said("db", "db-0", 3, Some(token(1))) };
    registry.acknowledge(nameless, at(0)).unwrap();
    let taken = agent.says(&mut registry, vec![pod("db-0", true), pod("db-1", true)], 1);
    assert_eq!(taken, Taken::default());
    assert_eq!(agent.says(&mut registry, vec![pod("db-1", true)], 2), Taken::default());
    assert_eq!(agent.says(&mut registry, vec![], 3).withdrawn.len(), 1);
}

#[test]
fn a_pod_that_stands_for_another_workload_now_has_one_delivery() {
    let mut registry = Registry::default();
    registry.acknowledge(said("db", "db-0", 3, Some(token(1))), at(0)).unwrap();
    registry.acknowledge(said("web", "db-0", 4, Some(token(1))), at(0)).unwrap();
    assert_eq!(delivered(&mut registry, 0), rows(&[("db-0", 4)]));
}

#[test]
fn a_report_in_pages_counts_once_it_is_whole() {
    let mut registry = Registry::default();
    let agent = Agent::begin(&mut registry, 1, 0);
    let page = registry.page((agent.0, agent.1), vec![pod("db-0", false)], true, at(0));
    assert_eq!(page, Ok(None));
    assert_eq!(waiting(&mut registry, 0), [""; 0]);
    agent.says(&mut registry, vec![pod("db-1", false)], 0);
    assert_eq!(waiting(&mut registry, 0), ["db-0", "db-1"]);
    agent.says(&mut registry, vec![pod("db-1", true)], 1);
    assert_eq!(waiting(&mut registry, 1), [""; 0]);
}

#[test]
fn what_a_node_agent_said_outlives_its_stream_for_a_while() {
    let mut registry = Registry::default();
    let agent = Agent::begin(&mut registry, 1, 0);
    registry.acknowledge(said("db", "db-0", 3, Some(token(1))), at(0)).unwrap();
    agent.says(&mut registry, vec![pod("db-0", true), pod("db-1", false)], 1);
    agent.ends(&mut registry, 5);
    let (deliveries, waits) = registry.list(None, at(64));
    assert_eq!((deliveries[0].as_of, waits[0].as_of), (Some(at(5)), Some(at(5))));
    assert_eq!(waiting(&mut registry, 65), [""; 0], "after a minute nobody knows that it waits");
    assert_eq!(delivered(&mut registry, 65), rows(&[("db-0", 3)]));
    // it comes back, and a pod has gone meanwhile
    let agent = Agent::begin(&mut registry, 1, 100);
    assert_eq!(registry.list(None, at(100)).0[0].as_of, None);
    assert_eq!(agent.says(&mut registry, vec![], 101).withdrawn.len(), 1);
}

#[test]
fn what_nobody_speaks_for_is_forgotten_after_a_day() {
    let mut registry = Registry::default();
    let agent = Agent::begin(&mut registry, 1, 0);
    registry.acknowledge(said("db", "db-0", 3, Some(token(1))), at(0)).unwrap();
    registry.acknowledge(said("db", "by-itself", 3, None), at(0)).unwrap();
    agent.says(&mut registry, vec![pod("db-0", true)], 1);
    let day = 24 * 3600;
    assert_eq!(delivered(&mut registry, day), rows(&[("db-0", 3)]));
    agent.ends(&mut registry, day);
    assert_eq!(delivered(&mut registry, 2 * day - 1).len(), 1);
    assert_eq!(delivered(&mut registry, 2 * day), rows(&[]));
    assert!(registry.origins.is_empty(), "nothing is kept");
    assert_eq!(registry.bytes, 0);
}

#[test]
fn a_newer_stream_of_the_same_node_agent_takes_over() {
    let mut registry = Registry::default();
    let (older, newer) = (Agent::begin(&mut registry, 1, 0), Agent::begin(&mut registry, 1, 1));
    let page = registry.page((older.0, older.1), vec![], false, at(2));
    assert_eq!(page, Err(PageError::Superseded));
    newer.says(&mut registry, vec![pod("db-0", false)], 3);
    // its end is noticed late
    older.ends(&mut registry, 4);
    assert_eq!(registry.counts(at(4)), Counts { deliveries: 0, waiting: 1, reporting: 1 });
}

#[test]
fn no_report_and_not_all_of_them_exhaust_the_registry() {
    let mut registry = Registry::default();
    let wide = || {
        let mut pod = pod("db-0", false);
        pod.waiting.as_mut().unwrap().sentence = "x".repeat(1024);
        vec![pod; 500]
    };
    let mut full = 0;
    for origin in 1..=40 {
        let agent = Agent::begin(&mut registry, origin, 0);
        let mut pages =
            std::iter::from_fn(|| Some(registry.page((agent.0, agent.1), wide(), true, at(0))));
        let refusal = pages.find_map(Result::err).unwrap();
        full += usize::from(refusal == PageError::Full(Full::Reports));
        assert!(registry.bytes <= ALL_BYTES);
    }
    assert!(full > 0, "the reports of all have a bound of their own");
    for stream in 1..=40_u8 {
        registry.close((token(stream), u64::from(stream)), at(1));
    }
    assert_eq!(registry.bytes, 0);
    let refused = Registry {
        origins: (0..ORIGINS)
            .map(|n| {
                let origin = Origin { stream: Some(0), ..Origin::default() };
                (format!("{n:032x}").parse().unwrap(), origin)
            })
            .collect(),
        ..Registry::default()
    }
    .open(token(255), "node-1", at(0));
    assert_eq!(refused, Err(Full::Origins));
}
