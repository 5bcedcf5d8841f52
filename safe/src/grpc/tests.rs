//! The services over HTTP/2 in memory; TLS alone is left out, who the peer is is given.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use clap::Parser as _;
use hyper_util::rt::TokioIo;
use time::{Duration, OffsetDateTime};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Endpoint, server::Connected},
};
use vsecm_safe_api::{
    metadata,
    position::Shown,
    proto::{
        self, admin_client::AdminClient, nodes_client::NodesClient, secrets_client::SecretsClient,
    },
    state::{Reason, Snapshot, State},
};

use super::{Services, serve};
use crate::{
    admin_proof::{AdminProof, Checked, ProofError},
    args::Args,
    custodian,
    deliveries::{Deliveries, Refusal},
    identity::Peer,
    recovery::Recovered,
    seal::{RootKey, Sealer},
    store::MemoryStore,
    vault::Vault,
};

const TOKEN: &str = "sentinels-own";

#[derive(Debug)]
struct Token;

impl AdminProof for Token {
    fn check<'a>(&'a self, token: Option<&'a str>, _caller: &'a spiffe::SpiffeId) -> Checked<'a> {
        let outcome = match token {
            Some(TOKEN) => Ok(()),
            Some(_) => Err(ProofError::Refused("it is not sentinel's")),
            None => Err(ProofError::Missing),
        };
        Box::pin(std::future::ready(outcome))
    }
}

struct Pipe(DuplexStream, Peer);

impl Connected for Pipe {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.1.clone()
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

struct Safe {
    connections: mpsc::Sender<io::Result<Pipe>>,
    deliveries: Arc<Deliveries>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), tonic::transport::Error>>,
}

pub(super) fn services() -> Services {
    let empty =
        Recovered { vault: Vault::default(), revision: vsecm_safe_api::position::Revision(0) };
    let sealer = Sealer::new(RootKey::generate().unwrap());
    let store = Arc::new(MemoryStore::new().unwrap());
    let (custodian, feed, _custody) = custodian::start(empty, sealer, store);
    Services {
        patterns: Args::parse_from(["vsecm-safe"]).patterns().unwrap(),
        proof: Box::new(Token),
        custodian,
        feed,
        deliveries: Arc::default(),
        stop: CancellationToken::new(),
    }
}

impl Safe {
    fn start() -> Self {
        let services = services();
        let stop = services.stop.clone();
        let deliveries = Arc::clone(&services.deliveries);
        let (connections, accepted) = mpsc::channel(4);
        Self { connections, deliveries, stop, task: tokio::spawn(serve(services, accepted)) }
    }

    async fn dial(&self, path: &str, lifetime: Duration) -> Channel {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let peer = Peer {
            id: format!("spiffe://vsecm.com{path}").parse().unwrap(),
            not_after: OffsetDateTime::now_utc() + lifetime,
        };
        self.connections.send(Ok(Pipe(theirs, peer))).await.unwrap();
        let ours = Mutex::new(Some(ours));
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        let once = tower::service_fn(move |_uri| {
            let ours = ours.lock().unwrap().take();
            std::future::ready(ours.map(TokioIo::new).ok_or_else(gone))
        });
        Endpoint::from_static("http://safe").connect_with_connector(once).await.unwrap()
    }

    async fn sentinel(&self) -> AdminClient<Channel> {
        let path = "/workload/vsecm-sentinel/ns/vsecm-system/sa/vsecm-sentinel/n/s-0";
        AdminClient::new(self.dial(path, Duration::HOUR).await)
    }

    async fn node_agent(&self) -> NodesClient<Channel> {
        NodesClient::new(self.dial("/vsecm-node-agent", Duration::HOUR).await)
    }

    /// What a pod of the workload `db` may do.
    async fn pod(&self, name: &str) -> SecretsClient<Channel> {
        let path = format!("/workload/db/ns/shop/sa/db/n/{name}");
        SecretsClient::new(self.dial(&path, Duration::HOUR).await)
    }

    async fn workload(&self, namespace: &str, name: &str) -> SecretsClient<Channel> {
        let path = format!("/workload/{name}/ns/{namespace}/sa/{name}/n/{name}-0");
        SecretsClient::new(self.dial(&path, Duration::HOUR).await)
    }
}

fn with_token<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let token = TOKEN.parse().unwrap();
    request.metadata_mut().insert(metadata::ADMIN_TOKEN, token);
    request
}

fn put(namespace: &str, name: &str, value: &[u8]) -> proto::PutRequest {
    proto::PutRequest {
        key: Some(proto::SecretKey { namespace: namespace.to_owned(), name: name.to_owned() }),
        value: value.to_vec(),
        ..proto::PutRequest::default()
    }
}

async fn register(admin: &mut AdminClient<Channel>, value: &[u8]) -> u64 {
    let request = with_token(put("shop", "db", value));
    admin.put(request).await.unwrap().into_inner().revision
}

async fn next(states: &mut Streaming<proto::WatchResponse>) -> State {
    let message = states.message().await.unwrap().unwrap();
    State::try_from(message.state).unwrap()
}

async fn end(states: &mut Streaming<proto::WatchResponse>) -> Code {
    states.message().await.err().map_or(Code::Ok, |end| end.code())
}

fn present(state: State) -> Snapshot {
    match state {
        State::Present(snapshot) => snapshot,
        State::Absent(absent) => panic!("{absent:?}"),
    }
}

fn reason(state: State) -> Reason {
    match state {
        State::Absent(absent) => absent.reason,
        State::Present(_) => panic!("there is a secret"),
    }
}

async fn fetch(client: &mut SecretsClient<Channel>) -> Result<State, Status> {
    let fetched = client.fetch(proto::FetchRequest {}).await?.into_inner();
    Ok(State::try_from(fetched.state).unwrap())
}

#[tokio::test]
async fn a_registered_secret_reaches_its_own_workload_and_no_namesake() {
    let safe = Safe::start();
    let mut own = safe.workload("shop", "db").await;
    let mut namesake = safe.workload("other", "db").await;
    assert_eq!(reason(fetch(&mut own).await.unwrap()), Reason::NotRegistered);
    // larger than a window and a slice
    let value = vec![b'x'; 1024 * 1024];
    assert_eq!(register(&mut safe.sentinel().await, &value).await, 1);
    let snapshot = present(fetch(&mut own).await.unwrap());
    assert!(snapshot.document.expose() == value);
    assert_eq!(reason(fetch(&mut namesake).await.unwrap()), Reason::NotRegistered);
}

#[tokio::test]
async fn a_watch_brings_each_state_and_resumes_where_nothing_changed() {
    let safe = Safe::start();
    let mut admin = safe.sentinel().await;
    let mut own = safe.workload("shop", "db").await;
    let watch = |have| proto::WatchRequest { have };
    let mut states = own.watch(watch(None)).await.unwrap().into_inner();
    assert_eq!(reason(next(&mut states).await), Reason::NotRegistered);
    register(&mut admin, b"one").await;
    let first = present(next(&mut states).await);
    assert_eq!(first.document.expose(), b"one");

    let have = proto::Position::from(&first.position);
    let mut resumed = own.watch(watch(Some(have.clone()))).await.unwrap().into_inner();
    let foreign = proto::Position { lineage: "0".repeat(32), ..have };
    let mut of_another_store = own.watch(watch(Some(foreign))).await.unwrap().into_inner();
    assert_eq!(present(next(&mut of_another_store).await).position, first.position);

    register(&mut admin, b"two").await;
    for states in [&mut states, &mut resumed, &mut of_another_store] {
        assert_eq!(present(next(states).await).document.expose(), b"two");
    }
    let delete = proto::DeleteRequest { key: put("shop", "db", b"").key };
    let deleted = admin.delete(with_token(delete)).await.unwrap();
    assert!(deleted.into_inner().existed);
    assert_eq!(reason(next(&mut resumed).await), Reason::Deleted);
}

#[tokio::test]
async fn a_watch_ends_with_the_certificate() {
    let safe = Safe::start();
    let path = "/workload/db/ns/shop/sa/db/n/db-0";
    let channel = safe.dial(path, Duration::seconds(2)).await;
    let mut client = SecretsClient::new(channel);
    let watch = proto::WatchRequest { have: None };
    let mut states = client.watch(watch).await.unwrap().into_inner();
    assert_eq!(reason(next(&mut states).await), Reason::NotRegistered);
    assert_eq!(end(&mut states).await, Code::Unauthenticated);
    assert_eq!(fetch(&mut client).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_wrong_role_is_refused_with_a_sentence() {
    let safe = Safe::start();
    for path in [
        "/vsecm-node-agent",
        "/workload/vsecm-safe/ns/vsecm-system/sa/vsecm-safe/n/safe-0",
        "/workload/vsecm-sentinel/ns/vsecm-system/sa/vsecm-sentinel/n/s-0",
    ] {
        let mut client = SecretsClient::new(safe.dial(path, Duration::HOUR).await);
        let refusal = fetch(&mut client).await.unwrap_err();
        assert_eq!(refusal.code(), Code::PermissionDenied, "{path}");
        assert!(refusal.message().contains(path), "{refusal}");
        let watch = client.watch(proto::WatchRequest { have: None }).await;
        assert_eq!(watch.unwrap_err().code(), Code::PermissionDenied);
    }
    let path = "/workload/db/ns/shop/sa/db/n/db-0";
    let mut workload = AdminClient::new(safe.dial(path, Duration::HOUR).await);
    let refusal = workload.put(with_token(put("shop", "db", b"x"))).await;
    assert_eq!(refusal.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn sentinels_svid_alone_administers_nothing() {
    let safe = Safe::start();
    let mut admin = safe.sentinel().await;
    let mut wrong = with_token(proto::ListRequest {});
    let token = "another".parse().unwrap();
    wrong.metadata_mut().insert(metadata::ADMIN_TOKEN, token);
    let delete = proto::DeleteRequest { key: None };
    let refusals = [
        admin.put(put("shop", "db", b"x")).await.unwrap_err(),
        admin.delete(delete).await.unwrap_err(),
        admin.list(proto::ListRequest {}).await.unwrap_err(),
        admin.list(wrong).await.unwrap_err(),
        admin.list_deliveries(proto::ListDeliveriesRequest::default()).await.unwrap_err(),
    ];
    for refusal in refusals {
        assert_eq!(refusal.code(), Code::PermissionDenied, "{refusal}");
    }
    let listed = admin.list(with_token(proto::ListRequest {})).await.unwrap();
    assert!(listed.into_inner().items.is_empty(), "nothing was changed");
}

#[tokio::test]
async fn bad_input_gets_a_sentence_and_changes_nothing() {
    let safe = Safe::start();
    let mut admin = safe.sentinel().await;
    let past = Some(prost_types::Timestamp::default());
    let bad = [
        put("shop", "db", b""),
        put("shop", "db", &vec![b'x'; 1024 * 1024 + 1]),
        put("shop", "../db", b"x"),
        put("Shop", "db", b"x"),
        proto::PutRequest { key: None, ..put("", "", b"x") },
        proto::PutRequest { format: 99, ..put("shop", "db", b"x") },
        proto::PutRequest { expires: past, ..put("shop", "db", b"x") },
    ];
    for request in bad {
        let refusal = admin.put(with_token(request)).await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
        assert!(refusal.message().len() > 15, "{refusal}");
    }
    let listed = admin.list(with_token(proto::ListRequest {})).await.unwrap();
    assert!(listed.into_inner().items.is_empty());
}

/// A watch with its id.
async fn opened(
    client: &mut SecretsClient<Channel>,
    have: Option<proto::Position>,
) -> (String, Streaming<proto::WatchResponse>) {
    let response = client.watch(proto::WatchRequest { have }).await.unwrap();
    let id = response.metadata().get(metadata::WATCH).unwrap().to_str().unwrap();
    (id.to_owned(), response.into_inner())
}

fn shows(shown: &Shown, watch: &str) -> proto::AcknowledgeRequest {
    proto::AcknowledgeRequest {
        position: Some(shown.into()),
        node: "node-1".to_owned(),
        watch: watch.to_owned(),
        origin: ORIGIN.to_owned(),
    }
}

const ORIGIN: &str = "0123456789abcdef0123456789abcdef";

type Listed = (Vec<proto::Delivery>, Vec<proto::WaitingPod>);

async fn listed(admin: &mut AdminClient<Channel>, key: Option<proto::SecretKey>) -> Listed {
    let request = with_token(proto::ListDeliveriesRequest { key });
    let mut parts = admin.list_deliveries(request).await.unwrap().into_inner();
    let mut listed = Listed::default();
    while let Some(part) = parts.message().await.unwrap() {
        listed.0.extend(part.deliveries);
        listed.1.extend(part.waiting);
    }
    listed
}

async fn listed_pods(admin: &mut AdminClient<Channel>) -> Vec<(String, u64)> {
    let (deliveries, _) = listed(admin, None).await;
    deliveries.into_iter().map(|delivery| (delivery.pod, delivery.revision)).collect()
}

#[tokio::test]
async fn each_pod_acknowledges_on_the_shared_watch_under_its_own_name() {
    let safe = Safe::start();
    let mut admin = safe.sentinel().await;
    register(&mut admin, b"one").await;
    let mut holder = safe.pod("db-0").await;
    let (watch, mut states) = opened(&mut holder, None).await;
    let first = present(next(&mut states).await).position;
    for pod in ["db-0", "db-1"] {
        let mut client = safe.pod(pod).await;
        client.acknowledge(shows(&(&first).into(), &watch)).await.unwrap();
    }
    let (deliveries, _) = listed(&mut admin, put("shop", "db", b"").key).await;
    let pods: Vec<_> = deliveries.iter().map(|d| (&*d.pod, d.revision, &*d.node)).collect();
    assert_eq!(pods, [("db-0", 1, "node-1"), ("db-1", 1, "node-1")]);
    assert_eq!(deliveries[1].spiffe_id, "spiffe://vsecm.com/workload/db/ns/shop/sa/db/n/db-1");
    assert_eq!(listed(&mut admin, put("shop", "web", b"").key).await, Listed::default());

    let delete = proto::DeleteRequest { key: put("shop", "db", b"").key };
    admin.delete(with_token(delete)).await.unwrap();
    let State::Absent(absent) = next(&mut states).await else { panic!("it is deleted") };
    let mut client = safe.pod("db-1").await;
    client.acknowledge(shows(&(&absent).into(), &watch)).await.unwrap();
    let (deliveries, _) = listed(&mut admin, None).await;
    let empty: Vec<_> = deliveries.iter().map(|d| (&*d.pod, d.is_empty)).collect();
    assert_eq!(empty, [("db-0", false), ("db-1", true)]);
}

#[tokio::test]
async fn what_a_resumed_watch_began_with_counts_as_sent() {
    let safe = Safe::start();
    let mut admin = safe.sentinel().await;
    register(&mut admin, b"one").await;
    let mut own = safe.pod("db-0").await;
    let (_, mut states) = opened(&mut own, None).await;
    let first = present(next(&mut states).await).position;
    drop(states);
    let (watch, mut states) = opened(&mut own, Some((&first).into())).await;
    own.acknowledge(shows(&(&first).into(), &watch)).await.unwrap();
    assert_eq!(listed_pods(&mut admin).await, [("db-0".to_owned(), 1)]);
    // one that has what is not current is sent what is, and that alone counts
    register(&mut admin, b"two").await;
    let second = present(next(&mut states).await).position;
    let (watch, mut states) = opened(&mut own, Some((&first).into())).await;
    assert_eq!(present(next(&mut states).await).position, second);
    let refusal = own.acknowledge(shows(&(&first).into(), &watch)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal}");
}

#[tokio::test]
async fn a_forged_acknowledgement_is_refused_with_a_sentence_and_counted() {
    let safe = Safe::start();
    let mut admin = safe.sentinel().await;
    register(&mut admin, b"one").await;
    admin.put(with_token(put("shop", "web", b"x"))).await.unwrap();
    let (mut own, mut web) = (safe.pod("db-0").await, safe.workload("shop", "web").await);
    let (watch, mut states) = opened(&mut own, None).await;
    let shown = Shown::from(&present(next(&mut states).await).position);
    let (of_web, mut web_states) = opened(&mut web, None).await;
    let web_shown = Shown::from(&present(next(&mut web_states).await).position);
    let (ended, states_of_ended) = opened(&mut own, None).await;
    drop(states_of_ended);
    // the end of a stream reaches Safe in its own time
    let is_ended = || {
        let key = vsecm_safe_api::name::SecretKey::parse("shop", "db").unwrap();
        let id = Some(ended.parse().unwrap());
        safe.deliveries.watches().check(id, &key, &shown) == Err(Refusal::NoWatch)
    };
    let ends = async {
        while !is_ended() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), ends).await.unwrap();
    let later = Shown { revision: shown.revision.next(), ..shown.clone() };
    let emptied = Shown { digest: None, ..shown.clone() };
    let good = shows(&shown, &watch);
    for (forged, code, sentence) in [
        (shows(&shown, ""), Code::FailedPrecondition, "no open watch"),
        (shows(&shown, &"0".repeat(32)), Code::FailedPrecondition, "no open watch"),
        (shows(&shown, &ended), Code::FailedPrecondition, "no open watch"),
        (shows(&shown, &of_web), Code::PermissionDenied, "of another secret"),
        (shows(&web_shown, &of_web), Code::PermissionDenied, "of another secret"),
        (shows(&web_shown, &watch), Code::FailedPrecondition, "was not sent"),
        (shows(&later, &watch), Code::FailedPrecondition, "was not sent"),
        (shows(&emptied, &watch), Code::FailedPrecondition, "was not sent"),
        (
            proto::AcknowledgeRequest { position: None, ..good.clone() },
            Code::InvalidArgument,
            "position",
        ),
        (
            proto::AcknowledgeRequest { node: "a\n{}".to_owned(), ..good.clone() },
            Code::InvalidArgument,
            "node",
        ),
        (
            proto::AcknowledgeRequest { origin: "x".to_owned(), ..good.clone() },
            Code::InvalidArgument,
            "origin",
        ),
        (shows(&shown, "x"), Code::InvalidArgument, "watch"),
    ] {
        let refusal = own.acknowledge(forged.clone()).await.unwrap_err();
        assert_eq!(refusal.code(), code, "{forged:?}: {refusal}");
        assert!(refusal.message().contains(sentence), "{forged:?}: {refusal}");
    }
    let refused: Vec<_> = safe.deliveries.refused().map(|(_, count)| count).collect();
    assert_eq!(refused, [3, 2, 3]);
    assert_eq!(listed_pods(&mut admin).await, []);
    own.acknowledge(good).await.unwrap();
    assert_eq!(listed_pods(&mut admin).await, [("db-0".to_owned(), 1)]);
}

fn page(pods: Vec<proto::PodReport>) -> proto::NodeReport {
    let (node, origin) = ("node-1".to_owned(), ORIGIN.to_owned());
    proto::NodeReport { node, origin, pods, more: false }
}

fn reported(name: &str, shows: bool) -> proto::PodReport {
    let waiting = proto::Waiting {
        since: Some(prost_types::Timestamp::default()),
        reason: "no_entry".to_owned(),
        sentence: "no SPIRE entry".to_owned(),
    };
    proto::PodReport {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        service_account: "db".to_owned(),
        key: None,
        shows,
        waiting: (!shows).then_some(waiting),
    }
}

/// A stream of reports.
async fn reports(
    client: &mut NodesClient<Channel>,
) -> (mpsc::Sender<proto::NodeReport>, Streaming<proto::NodeReportResponse>) {
    let (sender, pages) = mpsc::channel(4);
    let answers = client.report(tokio_stream::wrappers::ReceiverStream::new(pages)).await;
    (sender, answers.unwrap().into_inner())
}

#[tokio::test]
async fn node_agent_reports_who_waits_and_hears_what_is_not_acknowledged() {
    let safe = Safe::start();
    let mut admin = safe.sentinel().await;
    register(&mut admin, b"one").await;
    let mut agent = safe.node_agent().await;
    let (pages, mut answers) = reports(&mut agent).await;
    let two = vec![reported("db-0", true), reported("db-1", false)];
    pages.send(page(two)).await.unwrap();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!((answer.number, answer.missing), (1, vec![0]));
    let (_, waiting) = listed(&mut admin, None).await;
    assert_eq!(waiting.len(), 1);
    assert_eq!((&*waiting[0].name, &*waiting[0].node), ("db-1", "node-1"));
    assert_eq!(waiting[0].waiting.as_ref().unwrap().reason, "no_entry");

    let mut own = safe.pod("db-0").await;
    let (watch, mut states) = opened(&mut own, None).await;
    let shown = Shown::from(&present(next(&mut states).await).position);
    own.acknowledge(shows(&shown, &watch)).await.unwrap();
    pages.send(page(vec![reported("db-0", true)])).await.unwrap();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!((answer.number, answer.missing), (2, vec![]));
    let (deliveries, waiting) = listed(&mut admin, None).await;
    assert_eq!((deliveries.len(), waiting.len()), (1, 0));
    assert_eq!(deliveries[0].as_of, None, "its node agent reports");
    pages.send(page(vec![])).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().number, 3);
    assert_eq!(listed(&mut admin, None).await, Listed::default());
}

#[tokio::test]
async fn only_node_agent_reports_and_a_bad_report_gets_a_sentence() {
    let safe = Safe::start();
    for path in [
        "/workload/db/ns/shop/sa/db/n/db-0",
        "/workload/vsecm-sentinel/ns/vsecm-system/sa/vsecm-sentinel/n/s-0",
        "/vsecm-node-agent-2",
    ] {
        let mut client = NodesClient::new(safe.dial(path, Duration::HOUR).await);
        let refusal = client.report(tokio_stream::empty()).await.unwrap_err();
        assert_eq!(refusal.code(), Code::PermissionDenied, "{path}");
        assert!(refusal.message().contains(path), "{refusal}");
    }
    let mut agent = safe.node_agent().await;
    for bad in [
        proto::NodeReport { origin: String::new(), ..page(vec![]) },
        proto::NodeReport { node: "a b".to_owned(), ..page(vec![]) },
        page(vec![proto::PodReport { namespace: "A".to_owned(), ..reported("a", true) }]),
    ] {
        let (pages, mut answers) = reports(&mut agent).await;
        pages.send(bad).await.unwrap();
        let refusal = answers.message().await.unwrap_err();
        assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
    }
    let (pages, mut answers) = reports(&mut agent).await;
    pages.send(page(vec![reported(&"x".repeat(200), true); 200])).await.unwrap();
    let refusal = answers.message().await.unwrap_err();
    assert_eq!(refusal.code(), Code::OutOfRange, "a page is bounded: {refusal}");
}

#[tokio::test]
async fn reports_end_with_the_certificate_and_with_safe() {
    let safe = Safe::start();
    let short = safe.dial("/vsecm-node-agent", Duration::seconds(2)).await;
    let mut client = NodesClient::new(short);
    let (_pages, mut answers) = reports(&mut client).await;
    assert_eq!(answers.message().await.unwrap_err().code(), Code::Unauthenticated);
    let mut agent = safe.node_agent().await;
    let (_pages, mut answers) = reports(&mut agent).await;
    safe.stop.cancel();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn at_the_end_watches_end_and_the_server_returns() {
    let safe = Safe::start();
    let mut own = safe.workload("shop", "db").await;
    let watch = proto::WatchRequest { have: None };
    let mut states = own.watch(watch).await.unwrap().into_inner();
    next(&mut states).await;
    safe.stop.cancel();
    assert_eq!(end(&mut states).await, Code::Unavailable);
    safe.task.await.unwrap().unwrap();
}
