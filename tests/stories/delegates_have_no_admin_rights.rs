//! A taken node-agent can have sentinel's SVID, by the design of SPIRE's Delegated Identity API.
//! It must be worth nothing: the second proof is missing.

use spire_api::pb::spire::api::{
    agent::delegatedidentity::v1::{
        SubscribeToX509sviDsRequest, delegated_identity_client::DelegatedIdentityClient,
    },
    types::Selector,
};
use tonic::{Code, Request, transport::Channel};
use vsecm_safe_api::{
    metadata::ADMIN_TOKEN,
    proto::{self, admin_client::AdminClient},
};
use vsecm_tests::{
    Playground,
    story::{self, SOON},
};

use crate::support::{
    attacker::{self, Identity},
    operator, workload,
};

fn with_token<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert(ADMIN_TOKEN, token.parse().unwrap());
    }
    request
}

/// Every Admin RPC is refused and changes nothing.
pub(crate) async fn is_refused_everywhere(
    story: &Playground,
    channel: Channel,
    token: Option<&str>,
) {
    let mut admin = AdminClient::new(channel);
    let put = proto::PutRequest {
        key: Some(operator::key("web", "default")),
        value: b"{\"a\":\"taken\"}".to_vec(),
        format: proto::Format::Json.into(),
        not_before: None,
        expires: None,
    };
    let put = admin.put(with_token(put, token)).await.unwrap_err();
    assert_eq!(put.code(), Code::PermissionDenied, "{put:?}");
    let delete = proto::DeleteRequest { key: Some(operator::key("web", "default")) };
    let delete = admin.delete(with_token(delete, token)).await.unwrap_err();
    assert_eq!(delete.code(), Code::PermissionDenied, "{delete:?}");
    let list = admin.list(with_token(proto::ListRequest {}, token)).await.unwrap_err();
    assert_eq!(list.code(), Code::PermissionDenied, "{list:?}");
    let request = with_token(proto::ListDeliveriesRequest::default(), token);
    let deliveries = admin.list_deliveries(request).await.unwrap_err();
    assert_eq!(deliveries.code(), Code::PermissionDenied, "{deliveries:?}");

    let svid = workload::svid(story, "web", "default");
    let mut client = workload::client(story, Some(&svid));
    let state = workload::fetch(&mut client).await.unwrap();
    assert_eq!(workload::document(&state), Some(&b"{\"a\":\"1\"}"[..]));
}

/// What a program with node-agent's identity gets for these selectors.
async fn delegated(story: &Playground, selectors: Vec<Selector>) -> (Vec<u8>, Vec<u8>) {
    let endpoint = format!("unix://{}", story.layout().admin_socket().display());
    let endpoint = spiffe::transport::Endpoint::parse(&endpoint).unwrap();
    let channel = spiffe::transport::connector::connect(&endpoint).await.unwrap();
    let request = SubscribeToX509sviDsRequest { selectors, pid: 0 };
    let stream = DelegatedIdentityClient::new(channel).subscribe_to_x509svi_ds(request).await;
    let mut stream = stream.unwrap().into_inner();
    let message = tokio::time::timeout(SOON, stream.message());
    let mut message = message.await.unwrap().unwrap().unwrap();
    let got = message.x509_svids.remove(0);
    let svid = got.x509_svid.unwrap();
    let id = svid.id.unwrap();
    assert_eq!(id.trust_domain, "vsecm.com");
    assert!(id.path.contains("/workload/vsecm-sentinel/"), "{}", id.path);
    (svid.cert_chain[0].to_vec(), got.x509_svid_key.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_svid_without_its_token_is_refused_on_every_admin_rpc() {
    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    // "if the delegate gives us selectors, we treat them as attested": all that sentinel may be known by
    let selector = |kind: &str, value: String| Selector { r#type: kind.to_owned(), value };
    let mut selectors = vec![selector("dev", "sentinel".to_owned())];
    selectors
        .extend((0..=0).chain(59_200..59_300).map(|uid| selector("unix", format!("uid:{uid}"))));
    let (certificate, key) = delegated(&story, selectors).await;
    for token in [None, Some("00"), Some("")] {
        let identity = Identity::from_der(certificate.clone(), key.clone());
        let channel = attacker::channel(&attacker::address(&story), Some(identity));
        is_refused_everywhere(&story, channel, token).await;
    }
    let audit = serde_json::to_string(&story.audit().unwrap()).unwrap();
    assert!(audit.contains("vsecm-sentinel"), "{audit}");
    story.end().await.unwrap();
}
