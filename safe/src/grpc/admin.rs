//! `Admin`: sentinel registers, deletes and lists. No call gives a value back ([I11]).

use std::sync::Arc;

use prost_types::Timestamp;
use time::OffsetDateTime;
use tonic::{Request, Response, Status, body::Body};
use vsecm_safe_api::{
    metadata,
    name::SecretKey,
    proto::{
        self, DeleteRequest, DeleteResponse, ListRequest, ListResponse, PutRequest, PutResponse,
        admin_server::Admin,
    },
    value::SecretValue,
    wire::{self, WireError},
};

use super::{About, Caller, Services, status};
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

#[tonic::async_trait]
impl Admin for AdminService {
    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let (caller, request) = admitted(request, Action::Put)?;
        let key = key(request.key.as_ref());
        let written = match (&key, draft(request)) {
            (Ok(key), Ok(draft)) => self
                .0
                .custodian
                .put(key.clone(), draft)
                .await
                .map_err(|e| status::from_write(&e)),
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
        Ok(Response::new(PutResponse { revision }))
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let (caller, request) = admitted(request, Action::Delete)?;
        let key = key(request.key.as_ref());
        let written = match &key {
            Ok(key) => self
                .0
                .custodian
                .delete(key.clone())
                .await
                .map_err(|e| status::from_write(&e)),
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
        Ok(Response::new(DeleteResponse { existed }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let (caller, ListRequest {}) = admitted(request, Action::List)?;
        let listed = self.0.custodian.list().await;
        let listed = listed.map_err(|e| status::from_write(&e))?;
        caller.audit(Action::List, &About::default(), "listed");
        let items = listed.iter().map(item).collect();
        Ok(Response::new(ListResponse { items }))
    }
}

fn key(key: Option<&proto::SecretKey>) -> Result<SecretKey, WireError> {
    key.ok_or(WireError::Missing("key"))
        .and_then(SecretKey::try_from)
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
