//! `Admin`: sentinel registers, deletes and lists. No call gives a value back ([I11]).

use std::sync::Arc;

use prost_types::Timestamp;
use time::OffsetDateTime;
use tonic::{Request, Response, Status, body::Body};
use vsecm_safe_api::{
    metadata,
    name::SecretKey,
    proto::{
        self, DeleteRequest, DeleteResponse, ListDeliveriesRequest, ListRequest, ListResponse,
        PutRequest, PutResponse, admin_server::Admin,
    },
    value::SecretValue,
    wire::{self, WireError},
};

use super::{
    About, Caller, Services,
    listing::{self, Listing},
    status,
};
use crate::{custodian::Listed, entry::Draft, policy::Action};

pub(super) struct AdminService(Arc<Services>);

impl AdminService {
    pub(super) fn new(services: Arc<Services>) -> Self {
        Self(services)
    }
}

/// Checks role and second proof before a body is read: nobody else can make Safe hold values.
pub(super) async fn admit(
    services: &Services,
    request: http::Request<Body>,
) -> Result<http::Request<Body>, Status> {
    let (mut head, body) = request.into_parts();
    let action = match head.uri.path().rsplit('/').next() {
        Some("Put") => Some(Action::Put),
        Some("Delete") => Some(Action::Delete),
        Some("List") => Some(Action::List),
        Some("ListDeliveries") => Some(Action::Deliveries),
        _unknown => None,
    };
    if let Some(action) = action {
        let caller = Caller::new(&head)?;
        let token = head.headers.get(metadata::ADMIN_TOKEN);
        let token = token.and_then(|token| token.to_str().ok());
        services.administer(&caller, action, token).await?;
        head.extensions.insert(Admitted(caller, action));
    }
    Ok(http::Request::from_parts(head, body))
}

/// Goes with a request that was admitted for this action.
#[derive(Clone)]
struct Admitted(Caller, Action);

fn admitted<T>(request: Request<T>, action: Action) -> Result<(Caller, T), Status> {
    match request.extensions().get() {
        Some(Admitted(caller, of)) if *of == action => Ok((caller.clone(), request.into_inner())),
        _not => Err(Status::permission_denied("the call was not admitted")),
    }
}

/// Carries a write out in a task of its own: a caller who goes away, or whose time is over, takes
/// neither the write nor its audit line along.
async fn to_its_end<T: Send + 'static>(
    write: impl Future<Output = Result<T, Status>> + Send + 'static,
) -> Result<Response<T>, Status> {
    let ended = tokio::spawn(write).await;
    let ended = ended.map_err(|_panic| Status::internal("Safe failed; see its log"))?;
    Ok(Response::new(ended?))
}

async fn put(
    services: Arc<Services>,
    caller: Caller,
    request: PutRequest,
) -> Result<PutResponse, Status> {
    let key = key(request.key.as_ref());
    let written = match (&key, draft(request)) {
        (Ok(key), Ok(draft)) => {
            services.custodian.put(key.clone(), draft).await.map_err(|e| status::from_write(&e))
        }
        (Err(refusal), _) => Err(status::from_wire(refusal)),
        (_, Err(refusal)) => Err(status::from_wire(&refusal)),
    };
    let about = About {
        secret: key.as_ref().ok(),
        revision: written.as_ref().ok().copied(),
        context: written.as_ref().err().map_or("", Status::message),
    };
    let outcome = if written.is_ok() { "stored" } else { "failed" };
    caller.audit(Action::Put, &about, outcome);
    let revision = written?.0;
    Ok(PutResponse { revision })
}

async fn delete(
    services: Arc<Services>,
    caller: Caller,
    request: DeleteRequest,
) -> Result<DeleteResponse, Status> {
    let key = key(request.key.as_ref());
    let written = match &key {
        Ok(key) => services.custodian.delete(key.clone()).await.map_err(|e| status::from_write(&e)),
        Err(refusal) => Err(status::from_wire(refusal)),
    };
    let about = About {
        secret: key.as_ref().ok(),
        revision: written.as_ref().ok().copied().flatten(),
        context: written.as_ref().err().map_or("", Status::message),
    };
    let outcome = match &written {
        Ok(Some(_)) => "deleted",
        Ok(None) => "nothing to delete",
        Err(_) => "failed",
    };
    caller.audit(Action::Delete, &about, outcome);
    let existed = written?.is_some();
    Ok(DeleteResponse { existed })
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let (caller, request) = admitted(request, Action::Put)?;
        to_its_end(put(Arc::clone(&self.0), caller, request)).await
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let (caller, request) = admitted(request, Action::Delete)?;
        to_its_end(delete(Arc::clone(&self.0), caller, request)).await
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let (caller, ListRequest {}) = admitted(request, Action::List)?;
        let listed = self.0.custodian.list().await;
        let listed = listed.map_err(|e| status::from_write(&e))?;
        caller.audit(Action::List, &About::default(), "listed");
        let items = listed.iter().map(item).collect();
        Ok(Response::new(ListResponse { items }))
    }

    type ListDeliveriesStream = Listing;

    async fn list_deliveries(
        &self,
        request: Request<ListDeliveriesRequest>,
    ) -> Result<Response<Listing>, Status> {
        let (caller, request) = admitted(request, Action::Deliveries)?;
        let key = request.key.as_ref().map(SecretKey::try_from).transpose();
        let key = key.map_err(|e| status::from_wire(&e))?;
        let now = OffsetDateTime::now_utc();
        let (deliveries, waiting) = self.0.deliveries.registry().list(key.as_ref(), now);
        let about = About { secret: key.as_ref(), ..About::default() };
        caller.audit(Action::Deliveries, &about, "listed");
        Ok(Response::new(listing::of(&deliveries, &waiting)))
    }
}

fn key(key: Option<&proto::SecretKey>) -> Result<SecretKey, WireError> {
    key.ok_or(WireError::Missing("key")).and_then(SecretKey::try_from)
}

fn draft(request: PutRequest) -> Result<Draft, WireError> {
    Ok(Draft {
        // first of all into a type that wipes it. What tonic's own buffers held stays behind in
        // freed memory: the process is non-dumpable ([I9])
        document: SecretValue::new(request.value)?,
        format: wire::format(request.format)?,
        not_before: moment(request.not_before.as_ref())?,
        expires: moment(request.expires.as_ref())?,
    })
}

fn moment(stamp: Option<&Timestamp>) -> Result<Option<OffsetDateTime>, WireError> {
    stamp.map(wire::time).transpose()
}

fn item(listed: &Listed) -> proto::Item {
    let absent = listed.absent.map_or(proto::Reason::Unspecified, Into::into);
    proto::Item {
        key: Some((&listed.key).into()),
        revision: listed.revision.0,
        format: proto::Format::from(listed.format).into(),
        created: listed.created.map(wire::timestamp),
        updated: listed.updated.map(wire::timestamp),
        not_before: listed.not_before.map(wire::timestamp),
        expires: listed.expires.map(wire::timestamp),
        size_bytes: u64::try_from(listed.size).unwrap_or(u64::MAX),
        absent: absent.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::{fmt, sync::Mutex, time::Duration};

    use futures_util::FutureExt as _;
    use tracing::{Event, Metadata, field, span};

    use super::{super::tests::services, *};
    use crate::{audit::CorrelationId, identity::Peer};

    /// What the audit lines say.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<String>>);

    impl field::Visit for Lines {
        fn record_debug(&mut self, field: &field::Field, value: &dyn fmt::Debug) {
            let said = format!("{}={value:?} ", field.name());
            self.0.lock().unwrap().push_str(&said);
        }
    }

    impl tracing::Subscriber for Lines {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == "audit"
        }
        fn event(&self, event: &Event<'_>) {
            event.record(&mut self.clone());
        }
        fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}
        fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}
        fn enter(&self, _span: &span::Id) {}
        fn exit(&self, _span: &span::Id) {}
    }

    #[tokio::test]
    async fn a_write_has_its_audit_line_also_if_its_caller_goes_away() {
        let lines = Lines::default();
        let _default = tracing::subscriber::set_default(lines.clone());
        let peer = Peer {
            id: "spiffe://vsecm.com/sentinel".parse().unwrap(),
            not_after: OffsetDateTime::now_utc(),
        };
        let caller = Caller {
            actor: peer.id.to_string(),
            peer,
            correlation_id: CorrelationId::accept(Some(b"c0ffee")),
        };
        let mut request = Request::new(PutRequest {
            key: Some((&SecretKey::parse("shop", "db").unwrap()).into()),
            value: b"x".to_vec(),
            ..PutRequest::default()
        });
        request.extensions_mut().insert(Admitted(caller, Action::Put));
        let service = AdminService::new(Arc::new(services()));
        // sent, and gone
        assert!(service.put(request).now_or_never().is_none());
        let is_audited = || lines.0.lock().unwrap().contains("outcome=\"stored\"");
        let audited = async {
            while !is_audited() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), audited).await.expect("an audit line");
    }
}
