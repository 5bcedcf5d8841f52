//! A pod that waits says for what: each state has a sentence of its own, which the documentation
//! explains. The driver gives up sooner here, so that each is told soon.

use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use crate::support::{
    awaiting::SOON,
    complaint::is_documented,
    created::Created,
    helm::{self, SYSTEM},
    identity::{self, Identity, OWN},
    installation,
    kubectl::Kubectl,
    node, outage,
    part::{SAFE, SPIRE_AGENT},
    pod::Pod,
    secret,
    story::Story,
};

const STORY: &str = "s20_each_wait_has_its_sentence";

/// The driver's hold and what differs from the shared installation, until the story's end.
#[track_caller]
fn installed_with(story: &Story, sets: &[&str]) {
    let sets: Vec<_> = ["node.holdSeconds=3"].iter().chain(sets).copied().collect();
    story.at_the_end(|| {
        helm::upgrade(&[]).ok();
        installation::ready();
    });
    // before that: who waits would be held for long, also when it is deleted
    let pods = story.kubectl();
    story.at_the_end(move || {
        pods.run(["delete", "pods", "--all", "--wait", "--timeout=60s"]).ok();
    });
    helm::upgrade(&sets).ok();
    installation::ready();
}

/// The pod says each of these words in one sentence, of which the documentation has the first.
#[track_caller]
fn says(pod: &Created, words: &[&str]) {
    is_documented(words[0]);
    let sentence = pod.waits_saying(words[0], SOON);
    for word in words {
        assert!(sentence.contains(word), "{word:?} is missing: {sentence}");
    }
    assert!(!pod.has_started());
}

fn in_words(time: OffsetDateTime) -> String {
    time.replace_nanosecond(0).unwrap().format(&Rfc3339).unwrap()
}

#[test]
#[ignore = "make e2e-all"]
fn each_state_of_the_secret_has_its_sentence() {
    let story = Story::begin(STORY);
    installed_with(&story, &[]);
    let namespace = story.namespace();
    let put = |name: &str, flags: &[&str]| {
        story.will_delete(&namespace, name);
        let command = ["-w", name, "-n", &namespace, "-s", "-"];
        let command: Vec<_> = command.iter().chain(flags).copied().collect();
        secret::safe(&command, "value").ok();
    };
    let (later, soon) = (
        in_words(OffsetDateTime::now_utc() + Duration::days(1)),
        in_words(OffsetDateTime::now_utc() + Duration::seconds(4)),
    );
    put("early", &["-N", &later]);
    put("late", &["-E", &soon]);
    put("deleted", &[]);
    secret::delete(&namespace, "deleted").ok();

    let create = |name: &str| story.create(&Pod::of(name));
    let [early, late, deleted] = ["early", "late", "deleted"].map(create);
    says(&early, &["is not valid before", &later]);
    says(&deleted, &["was deleted at", "register it again with: kubectl exec"]);
    // it may have been there for its first seconds
    let late =
        if late.has_started() { story.create(&Pod::of("late").named("later")) } else { late };
    says(&late, &["expired at", &soon, "register a new value with: kubectl exec"]);
}

#[test]
#[ignore = "make e2e-all"]
fn each_state_of_the_identity_has_its_sentence() {
    let story = Story::begin(STORY);
    installed_with(&story, &[]);
    let namespace = story.namespace();
    story.register("web", "value");
    let own = |name: &str| Pod::unlabelled(name).label(OWN, name);
    for template in [identity::of_workload("web"), identity::of_workload("other")] {
        Identity::new(&story, "two", &template).give();
    }
    Identity::new(&story, "plain", &identity::of_service_account()).give();
    let foreign = identity::of_workload("web").replace("{{ .PodMeta.Name }}", "another");
    Identity::new(&story, "foreign", &foreign).give();

    let create = |name: &str| story.create(&own(name));
    let [two, plain, foreign, none] = ["two", "plain", "foreign", "none"].map(create);
    says(&none, &["no SPIRE entry for pod", &format!("{namespace}/none")]);
    says(&two, &["2 identities fit the pod", "workload/web/", "workload/other/"]);
    let offered = format!("/ns/{namespace}/sa/default");
    says(&plain, &["which the workload pattern does not match", &offered]);
    says(&foreign, &["which is refused: ", "it names the pod another, the kubelet says foreign"]);

    let cluster = Kubectl::cluster();
    cluster.delete("clusterspiffeid", "vsecm-node", SOON);
    let pod = story.create(&Pod::of("web").named("no-node"));
    says(&pod, &["this node agent has no identity of its own from SPIRE yet"]);
    helm::upgrade(&["node.holdSeconds=3"]).ok();
    pod.ready(2 * SOON);
    outage::begins(&story, SPIRE_AGENT);
    let pod = story.create(&Pod::of("web").named("no-agent"));
    says(&pod, &["its agent cannot be reached since"]);
    outage::ends(SPIRE_AGENT);
    pod.ready(2 * SOON);
}

#[test]
#[ignore = "make e2e-all"]
fn each_state_of_safe_has_its_sentence() {
    let story = Story::begin(STORY);
    installed_with(&story, &[]);
    story.register("web", "value");
    // what was asked before is known: a node that asks for the first time is told nothing
    let node = node::names().pop().expect("a node");
    outage::begins(&story, SAFE);
    let unreachable = story.create(&Pod::of("web").on(&node));
    says(&unreachable, &["Safe is unreachable since"]);
    outage::ends(SAFE);
    unreachable.ready(2 * SOON);
    unreachable.delete(SOON);

    let nobody = "VSECM_SPIFFEID_PREFIX_WORKLOAD=^spiffe://vsecm.com/workload/[^/]+/ns/nobody/sa/[^/]+/n/[^/]+$";
    let system = Kubectl::namespace(SYSTEM);
    system.run(["set", "env", "statefulset/vsecm-safe", nobody]).ok();
    installation::ready();
    let refused = story.create(&Pod::of("web").named("refused").on(&node));
    says(&refused, &["Safe refuses the pod's identity since", "its audit log says why"]);
    helm::upgrade(&["node.holdSeconds=3"]).ok();
    refused.ready(2 * SOON);
}
