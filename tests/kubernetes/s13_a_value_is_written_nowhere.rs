//! A value that an operator registers by stdin is found in no log, no event, no object, no audit
//! log and on no disk. The same search finds what was put there.

use crate::support::{
    awaiting::SOON,
    container::{Container, STATE},
    node,
    part::{NODE_AGENT, SAFE, node_agents_server_dies},
    pod::Pod,
    search::Needle,
    secret,
    story::Story,
};

const STORY: &str = "s13_a_value_is_written_nowhere";

/// Nobody else has this text.
fn unheard_of() -> String {
    let mut bytes = [0; 20];
    getrandom::fill(&mut bytes).expect("random bytes");
    hex::encode(bytes)
}

/// The search finds what stands in each of the places.
#[track_caller]
fn the_search_finds(story: &Story, nodes: &[node::Node]) {
    let marker = unheard_of();
    let needle = Needle::of(&marker);
    assert!(needle.on_disks().is_empty() && needle.in_objects().is_empty(), "a marker is known");
    let script = format!("echo {marker}; echo {marker} > {STATE}/marker; sleep 3600 & wait $!");
    let pod = Pod::unlabelled("marked").containers([Container::shell("main", &script)]);
    let pod = story.create(&pod.without_volume().on(nodes[0].name()));
    pod.ready(SOON);
    let in_argv = unheard_of();
    pod.exec("main", &["true", &in_argv]).ok();

    let found = needle.on_disks();
    for place in ["/pods-log/", "/varlib-kubelet/pods/", "/control/etcd/", "/control/audit.log"] {
        assert!(found.iter().any(|file| file.contains(place)), "not in {place}: {found:?}");
    }
    let audit = Needle::of(&in_argv).on_disks();
    assert!(audit.iter().any(|file| file.ends_with("audit.log")), "an exec's argv: {audit:?}");
    assert_eq!(needle.in_objects(), ["pods"]);
    let run = needle.in_run(&nodes[0]);
    assert!(run.iter().any(|file| file.ends_with("/config.json")), "{run:?}");
    assert!(!needle.in_processes().is_empty(), "its shell has it in its arguments");
    pod.delete(SOON);
}

#[track_caller]
fn is_nowhere(needle: &Needle, nodes: &[node::Node], when: &str) {
    let nothing = Vec::<String>::new();
    assert_eq!(needle.on_disks(), nothing, "on disks {when}");
    assert_eq!(needle.in_objects(), nothing, "in objects {when}");
    assert_eq!(needle.in_processes(), nothing, "in processes {when}");
    for node in nodes {
        assert_eq!(needle.in_run(node), nothing, "in /run of {} {when}", node.name());
    }
}

#[test]
fn a_registered_value_is_in_no_log_no_object_and_on_no_disk() {
    let story = Story::begin(STORY);
    let Some(nodes) = node::all(STORY) else { return };
    the_search_finds(&story, &nodes);

    let [first, second, refused, odd] = [(); 4].map(|()| unheard_of());
    let canaries = Needle::all([first.as_str(), &second, &refused, &odd]);
    let document = |value: &str| format!(r#"{{"password":"{value}"}}"#);
    story.register("web", &document(&first));
    let pods: Vec<_> = nodes
        .iter()
        .map(|node| {
            story.create(&Pod::of("web").named(&format!("web-{}", node.name())).on(node.name()))
        })
        .collect();
    for pod in &pods {
        pod.ready(SOON);
        assert_eq!(pod.read("password"), first);
    }
    story.register("web", &document(&second));
    for pod in &pods {
        pod.comes_to_read("password", &second, SOON);
    }
    // who refuses a value, or cannot make files of it, does not repeat it
    let namespace = story.namespace();
    let args = ["-w", "web", "-n", namespace.as_str(), "-s", "-"];
    let complaint = secret::safe(&args, &refused.repeat(1 << 16)).refused();
    assert!(complaint.contains("1 MiB"), "{complaint}");
    assert!(!complaint.contains(&refused), "{complaint}");
    let broken = format!(r#"{{"../{odd}":"{odd}","a":{odd}"#);
    story.register("odd", &broken);
    let odd_pod = story.create(&Pod::of("odd").on(nodes[0].name()));
    odd_pod.ready(SOON);
    assert_eq!(odd_pod.read("secrets.json"), broken);
    // successors and what they log
    let node = nodes[0].name();
    node_agents_server_dies(node);
    NODE_AGENT.dies(Some(node));
    SAFE.dies(None);
    SAFE.pod(None).ready(SOON);
    for pod in &pods {
        assert_eq!(pod.read("password"), second);
    }
    is_nowhere(&canaries, &nodes, "while pods have it");

    for pod in pods.iter().chain([&odd_pod]) {
        pod.delete(SOON);
    }
    secret::delete(&namespace, "web").ok();
    is_nowhere(&canaries, &nodes, "after all is over");
}
