//! Calls against a Safe in this process, without TLS: what is sent, and what each answer becomes.

use std::{future, net::SocketAddr, sync::Mutex};

use tonic::{
    Response,
    transport::{Endpoint, Server, server::TcpIncoming},
};
use vsecm_safe_api::proto::admin_server::{Admin, AdminServer};

use super::*;
use crate::{
    command::Exit,
    outcome::{Action, Done, each, exit},
};

/// Does what the name in a request says.
#[derive(Default)]
struct FakeSafe {
    puts: Mutex<Vec<Request<proto::PutRequest>>>,
}

fn behave(key: Option<&proto::SecretKey>) -> Result<(), Status> {
    match key.map(|key| key.name.as_str()) {
        Some("forbidden") => Err(Status::permission_denied("not you")),
        Some("full") => Err(Status::unavailable("the disk is full")),
        _ => Ok(()),
    }
}

#[tonic::async_trait]
impl Admin for &'static FakeSafe {
    async fn put(
        &self,
        request: Request<proto::PutRequest>,
    ) -> Result<Response<proto::PutResponse>, Status> {
        behave(request.get_ref().key.as_ref())?;
        let mut puts = self.puts.lock().unwrap();
        puts.push(request);
        Ok(Response::new(proto::PutResponse { revision: puts.len() as u64 }))
    }

    async fn delete(
        &self,
        request: Request<proto::DeleteRequest>,
    ) -> Result<Response<proto::DeleteResponse>, Status> {
        let key = request.get_ref().key.as_ref();
        behave(key)?;
        let existed = key.is_some_and(|key| key.name == "there");
        Ok(Response::new(proto::DeleteResponse { existed }))
    }

    async fn list(
        &self,
        _request: Request<proto::ListRequest>,
    ) -> Result<Response<proto::ListResponse>, Status> {
        future::pending().await
    }

    type ListDeliveriesStream =
        tokio_stream::Pending<Result<proto::ListDeliveriesResponse, Status>>;

    async fn list_deliveries(
        &self,
        _request: Request<proto::ListDeliveriesRequest>,
    ) -> Result<Response<Self::ListDeliveriesStream>, Status> {
        future::pending().await
    }
}

fn session_with(address: SocketAddr) -> Session {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    Session::over(
        endpoint.connect_lazy(),
        AsciiMetadataValue::from_static("token"),
        CorrelationId("c0ffee".to_owned()),
        address.to_string(),
    )
}

fn session() -> (Session, &'static FakeSafe) {
    let safe: &FakeSafe = Box::leak(Box::default());
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let session = session_with(incoming.local_addr().unwrap());
    tokio::spawn(async move {
        Server::builder().serve_with_incoming(AdminServer::new(safe), incoming).await
    });
    (session, safe)
}

fn keys(names: &[&str]) -> Vec<SecretKey> {
    let parse = |name: &&str| SecretKey::parse("prod", name).unwrap();
    names.iter().map(parse).collect()
}

async fn delete(names: &[&str], session: Session) -> Vec<Result<Done, &'static str>> {
    let act = async |session: &Session, key: &SecretKey| {
        let existed = session.delete(key).await?;
        Ok(if existed { Done::Deleted } else { Done::NothingToDelete })
    };
    let outcomes = each(Action::Delete, keys(names), Ok(session), act).await;
    let is_all_done = outcomes.iter().all(|outcome| outcome.result.is_ok());
    assert_eq!(exit(&outcomes) == Exit::Done, is_all_done);
    outcomes.into_iter().map(|outcome| outcome.result.map_err(|error| error.word())).collect()
}

#[tokio::test]
async fn a_put_carries_the_value_its_times_the_second_proof_and_the_correlation_id() {
    let (session, safe) = session();
    let value = SecretValue::new(b"{\"a\":1}\n".to_vec()).unwrap();
    let expires = time::OffsetDateTime::UNIX_EPOCH;
    let validity = Validity { not_before: None, expires: Some(expires) };
    let revision = session.put(&keys(&["db"])[0], &value, Format::Yaml, validity).await.unwrap();
    assert_eq!(revision, Revision(1));
    let put = safe.puts.lock().unwrap().pop().unwrap();
    assert_eq!(put.metadata().get(ADMIN_TOKEN).unwrap(), "token");
    assert_eq!(put.metadata().get(CORRELATION_ID).unwrap(), "c0ffee");
    let put = put.into_inner();
    let key = put.key.unwrap();
    assert_eq!((key.namespace.as_str(), key.name.as_str()), ("prod", "db"));
    assert_eq!(put.value, b"{\"a\":1}\n");
    assert_eq!(put.format, i32::from(proto::Format::Yaml));
    assert_eq!((put.not_before, put.expires), (None, Some(timestamp(expires))));
}

#[tokio::test]
async fn a_refusal_of_one_pair_does_not_stop_the_others() {
    let (session, _safe) = session();
    let results = delete(&["there", "forbidden", "gone"], session).await;
    assert_eq!(results, [Ok(Done::Deleted), Err("refused"), Ok(Done::NothingToDelete)]);
}

#[tokio::test]
async fn once_safe_cannot_be_reached_the_rest_is_not_tried() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let session = session_with(closed.local_addr().unwrap());
    drop(closed);
    let results = delete(&["there", "gone"], session).await;
    assert_eq!(results, [Err("unreachable"), Err("not-tried")]);
}

#[tokio::test]
async fn what_safe_itself_cannot_do_is_not_said_of_the_way_to_it() {
    let (session, _safe) = session();
    let error = session.delete(&keys(&["full"])[0]).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Refused);
    assert_eq!(chain(&error), "Safe cannot do it now: the disk is full");
    let results = delete(&["there", "full", "gone"], session).await;
    assert_eq!(results, [Ok(Done::Deleted), Err("unavailable"), Ok(Done::NothingToDelete)]);
}

#[tokio::test]
async fn a_closed_port_is_unreachable_and_named() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let error = session_with(address).delete(&keys(&["db"])[0]).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Unreachable);
    let said = chain(&error);
    assert!(said.contains(&address.to_string()), "{said}");
    assert!(said.contains("refused"), "{said}");
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let (mut session, _safe) = session();
    session.deadline = Duration::from_millis(50);
    let error = session.list().await.unwrap_err();
    assert_eq!((error.word(), error.exit()), ("no-answer", Exit::Unreachable));
}

#[tokio::test]
async fn a_server_that_is_not_safe_is_named_by_the_identity_it_has() {
    let (session, _safe) = session();
    let met = "rustls error: peer SPIFFE ID is not authorized: spiffe://vsecm.com/workload/x";
    let mut status = Status::unavailable("transport error");
    status.set_source(Arc::new(io::Error::other(met)));
    let error = session.error(&status);
    assert_eq!((error.word(), error.exit()), ("not-safe", Exit::Unreachable));
    assert!(
        chain(&error).contains("is not Safe: it has the identity spiffe://vsecm.com/workload/x")
    );
}

#[test]
fn a_token_is_one_line_of_ascii_and_never_shown() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let with = |text: &str| {
        fs::write(file.path(), text).unwrap();
        token(file.path())
    };
    let good = with("abc.def-1\n").unwrap();
    assert_eq!(good.to_str().unwrap(), "abc.def-1");
    assert!(!format!("{good:?}").contains("abc"));
    for bad in ["", "\n", "two words", "two\nlines", "\u{e4}"] {
        let refused = with(bad);
        assert!(matches!(refused, Err(SessionError::TokenText(_))), "{bad:?}");
    }
    assert!(matches!(token(Path::new("/nonexistent")), Err(SessionError::Token { .. })));
}
