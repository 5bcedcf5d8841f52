//! SPIRE's Delegated Identity API: a delegate states selectors and gets what they match, unchecked.

use spiffe::SpiffeId;
use tonic::{Request, Response, Status};

use super::{
    Shared,
    book::Book,
    entry::{Attested, Selector},
    feed::{Feed, Seen, follow},
    socket::Caller,
    workload::no_identity,
};
use crate::proto::spire::api::{
    agent::delegatedidentity::v1::{
        SubscribeToX509BundlesRequest, SubscribeToX509BundlesResponse, SubscribeToX509sviDsRequest,
        SubscribeToX509sviDsResponse, X509svidWithKey,
        delegated_identity_server::DelegatedIdentity,
    },
    types,
};

#[derive(Debug)]
pub(super) struct Delegated {
    pub(super) shared: Shared,
    pub(super) attested: Attested,
    pub(super) caller: Caller,
    /// SPIRE's `authorized_delegates`: exact ids, no patterns.
    pub(super) authorized: SpiffeId,
}

/// The delegate is attested like any workload, again on every change of the entries.
fn check_delegate(book: &Book, attested: &Attested, authorized: &SpiffeId) -> Result<(), Status> {
    let mut own = book.matching(attested).peekable();
    if own.peek().is_none() {
        return Err(no_identity());
    }
    if !own.any(|issued| issued.entry.id == *authorized) {
        return Err(Status::permission_denied("caller not configured as an authorized delegate"));
    }
    Ok(())
}

fn to_message(book: &Book, stated: &Attested) -> SubscribeToX509sviDsResponse {
    let x509_svids = book
        .matching(stated)
        .map(|issued| X509svidWithKey {
            x509_svid: Some(types::X509svid {
                cert_chain: vec![issued.svid.certificate.clone()],
                id: Some(types::Spiffeid {
                    trust_domain: issued.svid.id.trust_domain_name().to_owned(),
                    path: issued.svid.id.path().to_owned(),
                }),
                expires_at: issued.svid.expires_at(),
                hint: issued.entry.hint.clone(),
            }),
            x509_svid_key: issued.svid.key.clone(),
        })
        .collect();
    SubscribeToX509sviDsResponse { x509_svids, federates_with: Vec::new() }
}

#[tonic::async_trait]
impl DelegatedIdentity for Delegated {
    type SubscribeToX509SVIDsStream = Feed<SubscribeToX509sviDsResponse>;
    type SubscribeToX509BundlesStream = Feed<SubscribeToX509BundlesResponse>;

    async fn subscribe_to_x509svi_ds(
        &self,
        request: Request<SubscribeToX509sviDsRequest>,
    ) -> Result<Response<Self::SubscribeToX509SVIDsStream>, Status> {
        if !self.caller.admits(request.extensions()) {
            return Err(no_identity());
        }
        let request = request.into_inner();
        if request.pid != 0 && request.selectors.is_empty() {
            return Err(Status::unimplemented("this authority attests no pids: state selectors"));
        }
        if request.pid != 0 || request.selectors.is_empty() {
            return Err(Status::invalid_argument(
                "must provide either selectors or non-zero PID, but not both",
            ));
        }
        let stated: Attested = request
            .selectors
            .into_iter()
            .map(|selector| Selector::new(selector.r#type, selector.value))
            .collect();
        let (attested, authorized) = (self.attested.clone(), self.authorized.clone());
        let view = move |book: &Book| {
            check_delegate(book, &attested, &authorized)?;
            // nothing that matches is an empty message, and the stream stays open
            Ok(Seen { fingerprint: book.fingerprint(&stated), message: to_message(book, &stated) })
        };
        let feed = follow(&self.shared.book, self.shared.ended.clone(), view);
        Ok(Response::new(feed))
    }

    async fn subscribe_to_x509_bundles(
        &self,
        request: Request<SubscribeToX509BundlesRequest>,
    ) -> Result<Response<Self::SubscribeToX509BundlesStream>, Status> {
        if !self.caller.admits(request.extensions()) {
            return Err(no_identity());
        }
        let (shared, attested, authorized) =
            (self.shared.clone(), self.attested.clone(), self.authorized.clone());
        let view = move |book: &Book| {
            check_delegate(book, &attested, &authorized)?;
            Ok(Seen {
                fingerprint: Vec::new(),
                message: SubscribeToX509BundlesResponse {
                    ca_certificates: [shared.bundle()].into(),
                },
            })
        };
        let feed = follow(&self.shared.book, self.shared.ended.clone(), view);
        Ok(Response::new(feed))
    }
}
