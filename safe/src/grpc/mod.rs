//! The contract's services.

mod admin;
mod listing;
mod nodes;
mod secrets;
mod status;
#[cfg(test)]
mod tests;
mod watching;

use std::{io, sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    body::Body,
    codegen::Service as _,
    transport::{Server, server::Connected},
};
use vsecm_safe_api::{
    metadata,
    name::SecretKey,
    position::Revision,
    proto::{
        admin_server::AdminServer,
        nodes_server::{self, NodesServer},
        secrets_server,
    },
    role::RolePatterns,
};

use self::{admin::AdminService, nodes::NodesService, secrets::SecretsService};
use crate::{
    admin_proof::AdminProof,
    audit::{CorrelationId, Line},
    custodian,
    deliveries::Deliveries,
    feed::Feed,
    identity::Peer,
    policy::{Action, Decision, decide},
};

/// A connection is asked for a sign of life this often, and is dead without one in the time
/// below: without it the watch of a node that has vanished would stay for ever.
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// A call, up to its answer's first byte: bodies that never end hold no place for ever.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A client has one watch and few calls beside it.
const STREAMS: u32 = 64;
/// Correlation id, token and pseudo-headers need about 2 KiB.
const HEADER_LIMIT: u32 = 32 * 1024;
/// A value has 1 MiB at most. Room for twice that, so that one a little too long is refused with
/// a sentence instead of a number.
const REQUEST_LIMIT: usize = 2 * 1024 * 1024 + 64 * 1024;

/// All that the services need.
#[derive(Debug)]
pub struct Services {
    /// Who is who.
    pub patterns: RolePatterns,
    /// Sentinel's second proof.
    pub proof: Box<dyn AdminProof>,
    /// Where writes go.
    pub custodian: custodian::Handle,
    /// Where reads come from.
    pub feed: Arc<Feed>,
    /// Who has what, and who waits.
    pub deliveries: Arc<Deliveries>,
    /// Ends the watches.
    pub stop: CancellationToken,
}

/// Serves accepted connections until `services.stop`, then lets calls under way finish.
pub async fn serve<C>(
    services: Services,
    connections: mpsc::Receiver<io::Result<C>>,
) -> Result<(), tonic::transport::Error>
where
    C: Connected<ConnectInfo = Peer> + AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let services = Arc::new(services);
    let stop = services.stop.clone();
    let admin = AdminServer::new(AdminService::new(Arc::clone(&services)))
        .max_decoding_message_size(REQUEST_LIMIT);
    let secrets = SecretsService::new(Arc::clone(&services));
    let nodes = NodesServer::new(NodesService::new(Arc::clone(&services)))
        .max_decoding_message_size(nodes::PAGE_LIMIT);
    let door = tower::service_fn(move |request: http::Request<Body>| {
        let (mut secrets, mut admin, mut nodes) = (secrets.clone(), admin.clone(), nodes.clone());
        let services = Arc::clone(&services);
        async move {
            let service = request.uri().path().split('/').nth(1);
            if service == Some(secrets_server::SERVICE_NAME) {
                return secrets.call(request).await;
            }
            if service == Some(nodes_server::SERVICE_NAME) {
                return match nodes::admit(&services, request) {
                    Ok(request) => nodes.call(request).await,
                    Err(refusal) => Ok(refusal.into_http()),
                };
            }
            match admin::admit(&services, request).await {
                // which says of methods that are not there that they are not
                Ok(request) => admin.call(request).await,
                Err(refusal) => Ok(refusal.into_http()),
            }
        }
    });
    Server::builder()
        .timeout(CALL_TIMEOUT)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS)
        .http2_max_header_list_size(HEADER_LIMIT)
        .serve_with_incoming_shutdown(
            door,
            ReceiverStream::new(connections),
            stop.cancelled_owned(),
        )
        .await
}

/// One call: who makes it, and how to follow it.
#[derive(Clone, Debug)]
struct Caller {
    peer: Peer,
    actor: String,
    correlation_id: CorrelationId,
}

impl Caller {
    /// From what came with the call. A certificate that has ended speaks for nobody.
    fn new(head: &http::request::Parts) -> Result<Self, Status> {
        let peer = head
            .extensions
            .get::<Peer>()
            .ok_or_else(|| Status::unauthenticated("the connection has no SPIFFE ID"))?
            .clone();
        let correlation_id = head.headers.get(metadata::CORRELATION_ID);
        let caller = Self {
            actor: peer.id.to_string(),
            peer,
            correlation_id: CorrelationId::accept(correlation_id.map(http::HeaderValue::as_bytes)),
        };
        caller.check_expiry()?;
        Ok(caller)
    }

    fn check_expiry(&self) -> Result<(), Status> {
        if self.peer.is_expired(OffsetDateTime::now_utc()) {
            return Err(Status::unauthenticated(
                "the certificate of this connection has expired; dial again with a new one",
            ));
        }
        Ok(())
    }

    /// Writes the audit line of a decision.
    fn audit(&self, action: Action, about: &About<'_>, outcome: &str) {
        Line {
            correlation_id: &self.correlation_id,
            actor: &self.actor,
            action: action.word(),
            secret: about.secret,
            revision: about.revision,
            outcome,
            context: about.context,
        }
        .write();
    }
}

/// What a decision was about.
#[derive(Default)]
struct About<'a> {
    secret: Option<&'a SecretKey>,
    revision: Option<Revision>,
    context: &'a str,
}

impl Services {
    /// The caller's own key, for the calls of workloads.
    fn own_key(&self, caller: &Caller, action: Action) -> Result<SecretKey, Status> {
        caller.check_expiry()?;
        let role = self.patterns.role(&caller.actor);
        match decide(&role, action) {
            Decision::Own(key) => Ok(key.clone()),
            Decision::WithProof => Err(refused(caller, action, "only sentinel may do this")),
            Decision::Told => Err(refused(caller, action, "only node-agent may do this")),
            Decision::Refused(reason) => Err(refused(caller, action, reason)),
        }
    }

    /// Whether the caller may report.
    fn listens_to(&self, caller: &Caller) -> Result<(), Status> {
        let role = self.patterns.role(&caller.actor);
        match decide(&role, Action::Report) {
            Decision::Told => Ok(()),
            Decision::Own(_) | Decision::WithProof => {
                Err(refused(caller, Action::Report, "only node-agent may do this"))
            }
            Decision::Refused(reason) => Err(refused(caller, Action::Report, reason)),
        }
    }

    /// Whether the caller may administer: by role first, then by the second proof.
    async fn administer(
        &self,
        caller: &Caller,
        action: Action,
        token: Option<&str>,
    ) -> Result<(), Status> {
        let role = self.patterns.role(&caller.actor);
        match decide(&role, action) {
            Decision::WithProof => {}
            Decision::Own(_) => return Err(refused(caller, action, "only workloads may do this")),
            Decision::Told => return Err(refused(caller, action, "only node-agent may do this")),
            Decision::Refused(reason) => return Err(refused(caller, action, reason)),
        }
        let checked = self.proof.check(token, &caller.peer.id).await;
        checked.map_err(|error| {
            let reason = error.to_string();
            caller.audit(action, &About { context: &reason, ..About::default() }, "refused");
            status::from_proof(&error)
        })
    }
}

fn refused(caller: &Caller, action: Action, reason: &'static str) -> Status {
    let about = About { context: reason, ..About::default() };
    caller.audit(action, &about, "refused");
    Status::permission_denied(format!("{} may not {}: {reason}", caller.actor, action.word()))
}
