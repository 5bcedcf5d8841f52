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
    metadata,
    position::{Position, Shown},
    proto::{AcknowledgeRequest, AcknowledgeResponse, FetchRequest, WatchRequest},
    wire::WireError,
};

use super::{About, Caller, Services, status, watching::Watching};
use crate::{
    deliveries::{Acknowledged, Token, claimed},
    feed::encode_frame,
    policy::Action,
};

/// A position, a node's name and two tokens need about 500 bytes.
const REQUEST_LIMIT: usize = 8 * 1024;
/// What one write to the connection holds: before each, the caller is checked again.
pub(super) const SLICE: usize = 16 * 1024;

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

    async fn answer(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let (head, body) = request.into_parts();
        let caller = Caller::new(&head)?;
        let method = head.uri.path().rsplit('/').next().unwrap_or_default();
        match method {
            "Fetch" => {
                let FetchRequest {} = decode(body).await?;
                self.fetch(&caller).map(answered)
            }
            "Watch" => self.watch(caller, decode(body).await?),
            "Acknowledge" => self.acknowledge(&caller, &decode(body).await?).map(answered),
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

    fn watch(&self, caller: Caller, request: WatchRequest) -> Result<http::Response<Body>, Status> {
        let key = self.0.own_key(&caller, Action::Watch)?;
        let have = match request.have {
            // of an absence there is nothing to have
            Some(have) if !have.digest.is_empty() => {
                let have = Position::try_from(&have);
                Some(have.map_err(|e| status::from_wire(&e))?)
            }
            _nothing => None,
        };
        let open = self.0.deliveries.watches().open(key.clone());
        let open = open.map_err(|_random| Status::unavailable("Safe has no random numbers"))?;
        let id = http::HeaderValue::try_from(open.id().expose());
        caller.audit(Action::Watch, &About { secret: Some(&key), ..About::default() }, "opened");
        let watching = Watching::new(Arc::clone(&self.0), caller, open, key, have);
        let mut response = answered(body(Box::pin(watching.parts())));
        // it is hex
        response.headers_mut().extend(id.map(|id| (WATCH, id)));
        Ok(response)
    }

    fn acknowledge(&self, caller: &Caller, request: &AcknowledgeRequest) -> Result<Body, Status> {
        let key = self.0.own_key(caller, Action::Acknowledge)?;
        let pod = self.0.patterns.name.pod(&caller.actor);
        let (shown, watch, origin) = cited(request)?;
        let node = &request.node;
        let context = match &pod {
            Some(pod) => format!("pod {}/{pod}, claims to be on node {node}", key.namespace),
            None => format!("claims to be on node {node}"),
        };
        let revision = Some(shown.revision);
        let said = Acknowledged {
            id: Arc::from(&*caller.actor),
            key: key.clone(),
            pod,
            shown,
            node: node.clone(),
            origin,
        };
        let taken = self.0.deliveries.acknowledge(watch, said, OffsetDateTime::now_utc());
        let about = |context| About { secret: Some(&key), revision, context };
        match taken {
            Ok(()) => {
                caller.audit(Action::Acknowledge, &about(&context), "shown");
                Ok(whole(Bytes::from_owner(encode_frame(&AcknowledgeResponse {}))))
            }
            Err(error) => {
                let context = format!("{context}: {error}");
                caller.audit(Action::Acknowledge, &about(&context), "refused");
                Err(status::from_acknowledge(&error))
            }
        }
    }
}

/// What an acknowledgement is about.
type Cited = (Shown, Option<Token>, Option<Token>);

fn cited(request: &AcknowledgeRequest) -> Result<Cited, Status> {
    let position = request.position.as_ref().ok_or(WireError::Missing("position"));
    let shown = position.and_then(Shown::try_from).map_err(|e| status::from_wire(&e))?;
    claimed("node", &request.node).map_err(|e| status::from_report(&e))?;
    let token = |what: &str, text: &str| match text {
        "" => Ok(None),
        text => {
            let token = text.parse::<Token>();
            token.map(Some).map_err(|e| Status::invalid_argument(format!("{what}: {e}")))
        }
    };
    Ok((shown, token("watch", &request.watch)?, token("origin", &request.origin)?))
}

fn answered(body: Body) -> http::Response<Body> {
    let mut response = http::Response::new(body);
    response.headers_mut().insert(http::header::CONTENT_TYPE, CONTENT_TYPE);
    response
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
        Box::pin(async move { Ok(service.answer(request).await.unwrap_or_else(Status::into_http)) })
    }
}

const WATCH: http::HeaderName = http::HeaderName::from_static(metadata::WATCH);
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
