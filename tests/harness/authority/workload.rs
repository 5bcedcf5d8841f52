//! The Workload API: one socket per caller, whose attestation is which socket it came to.

use tonic::{Request, Response, Status};

use super::{
    Shared,
    entry::Attested,
    feed::{Feed, Seen, follow},
    socket::Caller,
};
use crate::proto::workload::{
    X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
    spiffe_workload_api_server::SpiffeWorkloadApi,
};

/// Requests that some web page made a browser send lack this header; the standard demands it.
const SECURITY_HEADER: &str = "workload.spiffe.io";

#[derive(Debug)]
pub(super) struct Workload {
    pub(super) shared: Shared,
    pub(super) attested: Attested,
    pub(super) caller: Caller,
}

impl Workload {
    fn check<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let header = request.metadata().get(SECURITY_HEADER);
        if header.is_none_or(|value| value != "true") {
            return Err(Status::invalid_argument("security header missing from request"));
        }
        if !self.caller.admits(request.extensions()) {
            return Err(no_identity());
        }
        Ok(())
    }
}

pub(super) fn no_identity() -> Status {
    Status::permission_denied("no identity issued")
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Workload {
    type FetchX509SVIDStream = Feed<X509svidResponse>;
    type FetchX509BundlesStream = Feed<X509BundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.check(&request)?;
        let (shared, attested) = (self.shared.clone(), self.attested.clone());
        let view = move |book: &super::book::Book| {
            let svids: Vec<X509svid> = book
                .matching(&attested)
                .map(|issued| X509svid {
                    spiffe_id: issued.svid.id.to_string(),
                    x509_svid: issued.svid.certificate.clone(),
                    x509_svid_key: issued.svid.key.clone(),
                    bundle: issued.svid.bundle.clone(),
                    hint: issued.entry.hint.clone(),
                })
                .collect();
            if svids.is_empty() {
                return Err(no_identity());
            }
            // who is of another trust domain is told of ours, or could not check our servers
            let foreign = book
                .matching(&attested)
                .any(|issued| !issued.svid.id.is_member_of(&shared.trust_domain));
            let federated_bundles = if foreign { [shared.bundle()].into() } else { [].into() };
            Ok(Seen {
                fingerprint: book.fingerprint(&attested),
                message: X509svidResponse { svids, crl: Vec::new(), federated_bundles },
            })
        };
        let feed = follow(&self.shared.book, self.shared.ended.clone(), view);
        Ok(Response::new(feed))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.check(&request)?;
        let (shared, attested) = (self.shared.clone(), self.attested.clone());
        let view = move |book: &super::book::Book| {
            if book.matching(&attested).next().is_none() {
                return Err(no_identity());
            }
            // the CA lives as long as the authority: its bundle is sent once
            Ok(Seen {
                fingerprint: Vec::new(),
                message: X509BundlesResponse { crl: Vec::new(), bundles: [shared.bundle()].into() },
            })
        };
        let feed = follow(&self.shared.book, self.shared.ended.clone(), view);
        Ok(Response::new(feed))
    }
}
