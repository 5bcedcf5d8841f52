//! Sentinel without its CLI: for stories that write often.

use std::fs;

use tonic::{Request, Status, transport::Channel};
use vsecm_safe_api::{
    metadata::ADMIN_TOKEN,
    proto::{self, admin_client::AdminClient},
    wire::timestamp,
};
use vsecm_tests::{Playground, authority::ca::Lifetime};

use super::{attacker, delivered::Known};

/// Sentinel's SPIFFE ID in every playground.
pub(crate) const SENTINEL: &str =
    "spiffe://vsecm.com/workload/vsecm-sentinel/ns/vsecm-system/sa/vsecm-sentinel/n/story";

/// An operator with sentinel's identity and the second proof.
#[derive(Clone)]
pub(crate) struct Operator {
    client: AdminClient<Channel>,
    token: String,
}

impl Operator {
    /// The operator of a playground.
    pub(crate) fn of(playground: &Playground) -> Self {
        let id = SENTINEL.parse().unwrap();
        let svid = playground
            .authority()
            .issue(&id, Lifetime::Once(std::time::Duration::from_hours(1)))
            .unwrap();
        let channel = attacker::channel(&attacker::address(playground), Some((&svid).into()));
        let token = fs::read_to_string(playground.layout().token()).unwrap();
        Self { client: AdminClient::new(channel), token: token.trim().to_owned() }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let token = self.token.parse().unwrap();
        request.metadata_mut().insert(ADMIN_TOKEN, token);
        request
    }

    /// Registers a JSON or other document; its revision.
    pub(crate) async fn put(
        &self,
        name: &str,
        namespace: &str,
        value: &[u8],
    ) -> Result<u64, Status> {
        self.put_until(name, namespace, value, None).await
    }

    /// As [`Self::put`], with an end.
    pub(crate) async fn put_until(
        &self,
        name: &str,
        namespace: &str,
        value: &[u8],
        expires: Option<time::OffsetDateTime>,
    ) -> Result<u64, Status> {
        let message = proto::PutRequest {
            key: Some(key(name, namespace)),
            value: value.to_vec(),
            format: proto::Format::Json.into(),
            not_before: None,
            expires: expires.map(timestamp),
        };
        let answer = self.client.clone().put(self.request(message)).await?;
        Ok(answer.into_inner().revision)
    }
}

impl Operator {
    /// Who has what, and who waits.
    pub(crate) async fn deliveries(&self) -> Result<Known, Status> {
        let request = self.request(proto::ListDeliveriesRequest { key: None });
        let mut parts = self.client.clone().list_deliveries(request).await?.into_inner();
        let mut known = Known::default();
        while let Some(part) = parts.message().await? {
            known.deliveries.extend(part.deliveries);
            known.waiting.extend(part.waiting);
        }
        Ok(known)
    }
}

/// A key for the wire.
pub(crate) fn key(name: &str, namespace: &str) -> proto::SecretKey {
    proto::SecretKey { namespace: namespace.to_owned(), name: name.to_owned() }
}
