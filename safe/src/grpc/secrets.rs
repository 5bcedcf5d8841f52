//! `Secrets`: workloads fetch and watch their own secret, and say what their pods show.
//!
//! Spoken without tonic's codec, which would copy a snapshot for each watcher: the bodies of these
//! answers are slices of one frame that all readers of a state share.

use std::{
    convert::Infallible,
    fmt,
    future::ready,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{Stream, StreamExt as _, stream};
use http_body::Frame;
use http_body_util::{BodyExt as _, Limited, StreamBody};
use prost::{Message, bytes::Bytes};
use time::OffsetDateTime;
use tonic::{Status, body::Body, codegen::Service};
use vsecm_safe_api::{
    position::Position,
    proto::{AcknowledgeRequest, AcknowledgeResponse, FetchRequest, WatchRequest},
    wire::WireError,
};

use super::{About, Caller, Services, status, watching::Watching};
use crate::{feed::encode_frame, policy::Action};

/// A position, a pod's uid and a node's name need about 500 bytes.
const REQUEST_LIMIT: usize = 8 * 1024;
/// What one write to the connection holds: before each, the caller is checked again.
pub(super) const SLICE: usize = 16 * 1024;
/// Names and uids in an acknowledgement.
const CONTEXT_LIMIT: usize = 253;

/// What is written to one answer's body.
pub(super) type Part = Frame<Bytes>;

#[derive(Clone)]
pub(super) struct SecretsService(Arc<Services>);

impl fmt::Debug for SecretsService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretsService").finish_non_exhaustive()
    }
}

impl SecretsService {
    pub(super) fn new(services: Arc<Services>) -> Self {
        Self(services)
    }

    async fn answer(&self, request: http::Request<Body>) -> Result<Body, Status> {
        let (head, body) = request.into_parts();
        let caller = Caller::new(&head)?;
        let method = head.uri.path().rsplit('/').next().unwrap_or_default();
        match method {
            "Fetch" => {
                let FetchRequest {} = decode(body).await?;
                self.fetch(&caller)
            }
            "Watch" => self.watch(caller, decode(body).await?),
            "Acknowledge" => self.acknowledge(&caller, &decode(body).await?),
            _ => Err(Status::unimplemented("Secrets has no such method")),
        }
    }

    fn fetch(&self, caller: &Caller) -> Result<Body, Status> {
        let key = self.0.own_key(caller, Action::Fetch)?;
        let state = self.0.feed.current(&key, OffsetDateTime::now_utc());
        let about = About { secret: Some(&key), revision: Some(state.revision()), context: "" };
        caller.audit(Action::Fetch, &about, state.outcome());
        Ok(whole(state.frame()))
    }

    fn watch(&self, caller: Caller, request: WatchRequest) -> Result<Body, Status> {
        let key = self.0.own_key(&caller, Action::Watch)?;
        let have = match request.have {
            // of an absence there is nothing to have
            Some(have) if !have.digest.is_empty() => {
                let have = Position::try_from(&have);
                Some(have.map_err(|e| status::from_wire(&e))?)
            }
            _nothing => None,
        };
        caller.audit(Action::Watch, &About { secret: Some(&key), ..About::default() }, "opened");
        let watching = Watching::new(Arc::clone(&self.0), caller, key, have);
        Ok(body(Box::pin(watching.parts())))
    }

    fn acknowledge(&self, caller: &Caller, request: &AcknowledgeRequest) -> Result<Body, Status> {
        let key = self.0.own_key(caller, Action::Acknowledge)?;
        let position = request.position.as_ref().ok_or(WireError::Missing("position"));
        let revision = position.map_err(|e| status::from_wire(&e))?.revision;
        for (what, text) in [("pod_uid", &request.pod_uid), ("node", &request.node)] {
            if text.len() > CONTEXT_LIMIT || !text.bytes().all(|b| b.is_ascii_graphic()) {
                let rule = format!("{what} must be at most {CONTEXT_LIMIT} plain characters");
                return Err(Status::invalid_argument(rule));
            }
        }
        let context = format!("pod {} on node {}", request.pod_uid, request.node);
        let about = About {
            secret: Some(&key),
            revision: Some(vsecm_safe_api::position::Revision(revision)),
            context: &context,
        };
        caller.audit(Action::Acknowledge, &about, "shown");
        Ok(whole(Bytes::from_owner(encode_frame(&AcknowledgeResponse {}))))
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl Service<http::Request<Body>> for SecretsService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        let service = self.clone();
        Box::pin(async move {
            Ok(match service.answer(request).await {
                Err(status) => status.into_http(),
                Ok(body) => {
                    let mut response = http::Response::new(body);
                    response.headers_mut().insert(http::header::CONTENT_TYPE, CONTENT_TYPE);
                    response
                }
            })
        })
    }
}

const CONTENT_TYPE: http::HeaderValue = http::HeaderValue::from_static("application/grpc");

/// The only message of a request: no compression, one frame.
async fn decode<M: Message + Default>(body: Body) -> Result<M, Status> {
    let collected = Limited::new(body, REQUEST_LIMIT).collect().await;
    let bytes = collected
        .map_err(|_cause| Status::invalid_argument("the request is too long or was cut off"))?
        .to_bytes();
    match bytes.split_first_chunk::<5>() {
        Some(([0, length @ ..], message))
            if usize::try_from(u32::from_be_bytes(*length)) == Ok(message.len()) =>
        {
            M::decode(message).map_err(|_cause| Status::invalid_argument("not a message of Safe"))
        }
        _other => {
            Err(Status::invalid_argument("the request must be one message without compression"))
        }
    }
}

fn whole(frame: Bytes) -> Body {
    let parts = stream::iter(slices(frame).map(data));
    let end = stream::once(ready(trailers(&Status::ok(""))));
    body(parts.chain(end))
}

fn body(parts: impl Parts) -> Body {
    Body::new(StreamBody::new(parts.map(Ok::<Part, Infallible>)))
}

/// A frame cut into what one write holds, without copies.
pub(super) fn slices(frame: Bytes) -> impl Iterator<Item = Bytes> {
    let mut rest = frame;
    std::iter::from_fn(move || {
        let slice = rest.split_to(rest.len().min(SLICE));
        (!slice.is_empty()).then_some(slice)
    })
}

pub(super) fn data(slice: Bytes) -> Part {
    Frame::data(slice)
}

pub(super) fn trailers(status: &Status) -> Part {
    let mut headers = http::HeaderMap::new();
    if status.add_header(&mut headers).is_err() {
        // our sentences have no metadata and are percent-encoded: this does not happen
        headers.insert("grpc-status", http::HeaderValue::from_static("13"));
    }
    Frame::trailers(headers)
}

/// A stream that may be a body.
pub(super) trait Parts: Stream<Item = Part> + Send + 'static {}

impl<S: Stream<Item = Part> + Send + 'static> Parts for S {}
