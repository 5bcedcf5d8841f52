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
    proto::{self, admin_client::AdminClient, secrets_client::SecretsClient},
    state::{Reason, Snapshot, State},
};

use super::{Services, serve};
use crate::{
    admin_proof::{AdminProof, Checked, ProofError},
    args::Args,
    custodian,
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
        stop: CancellationToken::new(),
    }
}

impl Safe {
    fn start() -> Self {
        let services = services();
        let stop = services.stop.clone();
        let (connections, accepted) = mpsc::channel(4);
        Self { connections, stop, task: tokio::spawn(serve(services, accepted)) }
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

#[tokio::test]
async fn an_acknowledgement_is_checked_before_it_reaches_the_audit_log() {
    let safe = Safe::start();
    let mut own = safe.workload("shop", "db").await;
    let good = proto::AcknowledgeRequest {
        position: Some(proto::Position::default()),
        pod_uid: "0b7e".to_owned(),
        node: "node-1".to_owned(),
    };
    own.acknowledge(good.clone()).await.unwrap();
    let forged = proto::AcknowledgeRequest { node: "a\n{}".to_owned(), ..good };
    let refusal = own.acknowledge(forged).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument);
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
