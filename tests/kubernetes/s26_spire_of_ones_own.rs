//! The chart with `spire.enabled=false`, on a SPIRE that is there already and has another trust
//! domain. Values that do not fit to it are told as such; right ones mend it without a hand.

use crate::support::{
    awaiting::{PATIENTLY, SOON},
    complaint, helm, installation, node,
    part::{NODE_AGENT, SAFE, SENTINEL},
    pod::Pod,
    program::Program,
    story::Story,
};

use std::{env, time::Duration};

const STORY: &str = "s26_spire_of_ones_own";

const TRUST_DOMAIN: &str = "corp.example";

/// As in tests/cluster/values-external-spire.yaml, and that trust domain.
const FITTING: [&str; 3] = ["spire.enabled=false", "spire.className=", "trustDomain=corp.example"];

/// tests/cluster/spire.
#[track_caller]
fn external(script: &str, verb: &str) {
    let program = Program::new(script).arg(verb).env("TRUST_DOMAIN", TRUST_DOMAIN);
    program.within(Duration::from_mins(4)).run().ok();
}

/// Of node-agents the newest is looked at: a rollout makes one, and waits until that is ready.
#[track_caller]
fn all_complain(of: [&[&str]; 3]) {
    let [safe, sentinel, agent] = of;
    complaint::comes(SAFE, None, safe);
    complaint::comes(SENTINEL, None, sentinel);
    complaint::comes(NODE_AGENT, None, agent);
}

#[test]
#[ignore = "make e2e-all"]
fn a_spire_that_is_there_serves_and_values_that_do_not_fit_are_told() {
    let story = Story::begin_bare(STORY);
    let Some(nodes) = node::all(STORY) else { return };
    let node = nodes[0].name();
    let script = env::var("VSECM_CLUSTER").expect("node::all has asked for it");
    let script = script.strip_suffix("cluster").expect("its name").to_owned() + "spire";
    if helm::status().is_some() {
        helm::uninstall(&["--no-hooks"]).ok();
    }
    // the chart's SPIRE comes back, and needs the places of this one
    let last = script.clone();
    story.at_the_end(move || {
        helm::uninstall(&["--no-hooks"]).ok();
        external(&last, "remove");
        installation::ensure();
    });
    external(&script, "external");

    let wrong = "trustDomain=wrong.example";
    helm::put(&[&FITTING[..2], &[wrong]].concat()).ok();
    all_complain([
        &["but SPIFFE_TRUST_DOMAIN says the trust domain", "wrong.example", TRUST_DOMAIN],
        &["which is not of the trust domain", "wrong.example", TRUST_DOMAIN],
        &["SPIFFE_TRUST_DOMAIN must be the one of SPIRE", "wrong.example", TRUST_DOMAIN],
    ]);
    helm::upgrade(&FITTING).ok();
    installation::ready();
    story.register("web", "first");
    let running = story.create(&Pod::of("web").on(node));
    running.ready(SOON);
    assert_eq!(running.read("secrets.json"), "first");
    let id = format!("spiffe://{TRUST_DOMAIN}/workload/web/ns/{}/", story.namespace());
    let audit = SAFE.pod(None).log(SAFE.container);
    assert!(audit.contains(&id), "safe does not know the pod as {id}");

    let missing = ["spire.workloadSocketName=missing.sock"];
    helm::put(&[&FITTING[..], &missing].concat()).ok();
    let socket = "missing.sock";
    all_complain([
        &["gives no SVID", socket],
        &["does not exist", socket],
        &["gave none: ", socket],
    ]);
    assert_eq!(running.read("secrets.json"), "first");
    helm::upgrade(&FITTING).ok();
    installation::ready();
    story.register("web", "second");
    running.comes_to_read("secrets.json", "second", PATIENTLY);
    running.delete(SOON);
}
