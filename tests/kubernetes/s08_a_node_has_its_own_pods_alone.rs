//! Whoever has a node has the identities of its pods, and no more: not those of other nodes' pods,
//! and with sentinel's no right of an operator.

use std::sync::{Arc, Mutex};

use tokio::task::JoinHandle;
use tonic::{Code, Request, Status, transport::Channel};
use vsecm_safe_api::{
    metadata::ADMIN_TOKEN,
    proto::{self, admin_client::AdminClient, secrets_client::SecretsClient},
};

use crate::support::{
    attacker::{self, Identity},
    awaiting::SOON,
    created::Created,
    helm::SYSTEM,
    kubectl::{Kubectl, text},
    node,
    part::{NODE_AGENT, SAFE, SENTINEL},
    pod::Pod,
    story::Story,
    taken::{Loot, Taken, loot, selectors},
};

const STORY: &str = "s08_a_node_has_its_own_pods_alone";

const VALUE: &str = "the victim's value";

/// Safe, for who shows an SVID that it took.
fn safe(with: &Loot) -> Channel {
    let pod = SAFE.pod(None).object().expect("safe's pod");
    let address = format!("https://{}:8443/", text(&pod["status"]["podIP"])).parse().unwrap();
    let identity = Identity::from_der(with.certificate.clone(), with.key.clone());
    attacker::channel(&address, Some(identity))
}

fn with_token<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert(ADMIN_TOKEN, token.parse().unwrap());
    }
    request
}

/// Every Admin RPC, for the victim's secret.
async fn admin_rpcs(
    channel: Channel,
    namespace: &str,
    token: Option<&str>,
) -> [Result<(), Status>; 3] {
    let key = proto::SecretKey { namespace: namespace.to_owned(), name: "web".to_owned() };
    let put = proto::PutRequest {
        key: Some(key.clone()),
        value: b"taken".to_vec(),
        format: proto::Format::Raw.into(),
        not_before: None,
        expires: None,
    };
    let delete = proto::DeleteRequest { key: Some(key) };
    let mut admin = AdminClient::new(channel);
    [
        admin.put(with_token(put, token)).await.map(drop),
        admin.delete(with_token(delete, token)).await.map(drop),
        admin.list(with_token(proto::ListRequest {}, token)).await.map(drop),
    ]
}

#[track_caller]
fn all_are_refused(answers: [Result<(), Status>; 3], who: &str) {
    for (rpc, answer) in ["Put", "Delete", "List"].iter().zip(answers) {
        let refusal = answer.expect_err(&format!("{rpc} by {who}"));
        assert_eq!(refusal.code(), Code::PermissionDenied, "{rpc} by {who}: {refusal}");
    }
}

/// Who listens in the background.
struct Listener {
    heard: Arc<Mutex<Vec<Loot>>>,
    listening: JoinHandle<()>,
}

impl Listener {
    async fn begin(taken: &Taken, selectors: &[String]) -> Self {
        let mut stream = taken.asks(selectors).await;
        let first = stream.message().await.expect("SPIRE's agent answers at once");
        let heard = Arc::new(Mutex::new(loot(first.expect("a message"))));
        let list = Arc::clone(&heard);
        let listening = tokio::spawn(async move {
            while let Ok(Some(message)) = stream.message().await {
                list.lock().unwrap().extend(loot(message));
            }
        });
        Self { heard, listening }
    }

    /// All that came; it would still hear more.
    #[track_caller]
    fn heard(&self) -> Vec<Loot> {
        assert!(!self.listening.is_finished(), "the stream ended before the story");
        self.heard.lock().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_nodes_agent_gets_nothing_for_a_pods_selectors() {
    let story = Story::begin(STORY);
    let Some(nodes) = node::all(STORY) else { return };
    let [here, there] = [nodes[0].name(), nodes[1].name()];
    story.register("web", VALUE);
    let victim = story.create(&Pod::of("web").named("victim").on(here));
    victim.ready(SOON);
    let own = selectors(&victim, "main", "default");
    // the pod's own node gets it, by the same call
    let known = Taken::of(NODE_AGENT, here).gets(&own).await;
    assert!(known.id.contains("/workload/web/ns/"), "{known:?}");

    let there_taken = Taken::of(NODE_AGENT, there);
    let mut wanted = vec![own.clone()];
    // as node-agent asks; as if the pod were on this node; by the uid alone
    wanted.push(own.iter().filter(|s| !s.starts_with("container")).cloned().collect());
    wanted.push(
        own.iter()
            .map(|s| s.replace(&format!("node-name:{here}"), &format!("node-name:{there}")))
            .collect(),
    );
    wanted.push(vec![format!("pod-uid:{}", victim.uid())]);
    let mut listeners = Vec::new();
    for selectors in &wanted {
        listeners.push(Listener::begin(&there_taken, selectors).await);
    }
    // SPIRE knew the victim before this pod existed: when the agent has heard of this one, it has
    // heard all that it will ever hear of the victim
    let later = story.create(&Pod::of("web").named("later").on(there));
    let later = there_taken.gets(&selectors(&later, "main", "default")).await;
    assert!(later.id.ends_with("/n/later"), "{later:?}");
    for (selectors, listener) in wanted.iter().zip(&listeners) {
        let heard = listener.heard();
        assert!(heard.is_empty(), "{there} got {heard:?} for {selectors:?}");
    }

    // node-agent's own identity opens no secret, and gives no right of an operator
    let pod = NODE_AGENT.pod(Some(there));
    let agent = there_taken.gets(&selectors(&pod, "node-agent", "vsecm-node")).await;
    assert!(agent.id.ends_with("/vsecm-node-agent"), "{agent:?}");
    let fetched = SecretsClient::new(safe(&agent)).fetch(proto::FetchRequest {}).await;
    let refusal = fetched.map(drop).expect_err("node-agent is no workload");
    assert_eq!(refusal.code(), Code::PermissionDenied, "{refusal}");
    all_are_refused(admin_rpcs(safe(&agent), &story.namespace(), None).await, "node-agent");
    assert_eq!(victim.read("secrets.json"), VALUE);
}

/// A token for safe, made by who may make tokens.
#[track_caller]
fn token(account: &str, audience: &str, bound_to: Option<&Created>) -> String {
    let audience = format!("--audience={audience}");
    let mut args = vec!["create".to_owned(), "token".to_owned(), account.to_owned(), audience];
    if let Some(pod) = bound_to {
        args.push("--bound-object-kind=Pod".to_owned());
        args.push(format!("--bound-object-name={}", pod.name()));
        args.push(format!("--bound-object-uid={}", pod.uid()));
    }
    Kubectl::namespace(SYSTEM).run(args).ok().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_svid_from_its_own_node_is_refused_without_its_token() {
    let story = Story::begin(STORY);
    let Some(nodes) = node::all(STORY) else { return };
    story.register("web", VALUE);
    let reader = story.create(&Pod::of("web").on(nodes[0].name()));
    reader.ready(SOON);

    let sentinel = SENTINEL.pod(None);
    let home = sentinel.node();
    let own = selectors(&sentinel, "sentinel", "vsecm-sentinel");
    let svid = Taken::of(NODE_AGENT, &home).gets(&own).await;
    assert!(svid.id.contains("/workload/vsecm-sentinel/"), "{svid:?}");

    let tokens = [
        ("without a token", None),
        ("with an empty token", Some(String::new())),
        ("with an invented token", Some("invented".to_owned())),
        ("with another account's token", Some(token("vsecm-node", "vsecm-safe", None))),
        ("with an unbound token", Some(token("vsecm-sentinel", "vsecm-safe", None))),
        ("with safe's token", Some(token("vsecm-safe", "vsecm-safe", Some(&SAFE.pod(None))))),
        ("with a token for others", Some(token("vsecm-sentinel", "others", Some(&sentinel)))),
    ];
    for (how, token) in tokens {
        let answers = admin_rpcs(safe(&svid), &story.namespace(), token.as_deref()).await;
        all_are_refused(answers, &format!("sentinel {how}"));
    }
    assert_eq!(reader.read("secrets.json"), VALUE);
    // what was refused was the token, and not the call: this is what sentinel's pod has
    let good = token("vsecm-sentinel", "vsecm-safe", Some(&sentinel));
    let list = with_token(proto::ListRequest {}, Some(&good));
    let listed = AdminClient::new(safe(&svid)).list(list).await;
    listed.expect("sentinel's own token with its own SVID");
}

/// The options of the one mount of ours among lines of a mountinfo.
#[track_caller]
fn options(table: &[String]) -> Vec<&str> {
    let ours: Vec<_> = table.iter().filter(|line| line.contains(" fuse.vsecm ")).collect();
    let [mount] = ours.as_slice() else { panic!("not one mount of ours: {table:#?}") };
    mount.split(' ').nth(5).expect("the options of the mount").split(',').collect()
}

#[test]
fn nothing_is_run_from_the_volume_and_nothing_written() {
    let story = Story::begin(STORY);
    let Some(nodes) = node::all(STORY) else { return };
    story.register("web", VALUE);
    let pod = story.create(&Pod::of("web").on(nodes[0].name()));
    pod.ready(SOON);

    let place = format!(" /var/lib/kubelet/pods/{}/", pod.uid());
    let mut table = nodes[0].mountinfo();
    table.retain(|line| line.contains(&place));
    let on_the_node = options(&table);
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(on_the_node.contains(&option), "no {option} on the node: {on_the_node:?}");
    }
    // The kubelet asks for every read-only volume to be bound read-only, and runc sets the options
    // of such a bind anew: `ro` alone is left of them in the container, as of every volume's. So no
    // file there has a kind or a bit that the others would forbid.
    let table = pod.exec("main", &["cat", "/proc/self/mountinfo"]).ok();
    let table: Vec<_> = table.lines().map(str::to_owned).collect();
    assert!(options(&table).contains(&"ro"), "{table:#?}");
    let kinds = ["find", "/vsecm", "(", "-type", "f", "-perm", "/7111", "-o"];
    let rest = ["!", "-type", "f", "!", "-type", "d", "!", "-type", "l", ")"];
    let found = pod.exec("main", &[&kinds[..], &rest[..]].concat()).ok();
    assert!(found.is_empty(), "{found}");
    let write = pod.exec("main", &["sh", "-c", "echo > /vsecm/secrets.json"]).refused();
    assert!(write.contains("Read-only file system"), "{write}");

    let special = story.create(&Pod::of("web").named("special").attribute("mode", "4555"));
    special.waits_saying("setuid", SOON);
    assert!(!special.has_started());
}
