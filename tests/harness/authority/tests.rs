//! The two APIs, asked by the clients that the components use.

use std::{path::PathBuf, time::Duration};

use spiffe::{BundleSource as _, SpiffeId, TrustDomain, X509Source};
use spire_api::pb::spire::api::{
    agent::delegatedidentity::v1::{
        SubscribeToX509sviDsRequest, SubscribeToX509sviDsResponse,
        delegated_identity_client::DelegatedIdentityClient,
    },
    types,
};
use tempfile::TempDir;
use tonic::{Code, Status, Streaming, transport::Channel};

use super::*;
use crate::proto::workload::{
    X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient,
};

const TTL: Duration = Duration::from_mins(1);
const SOON: Duration = Duration::from_secs(10);

struct World {
    folder: TempDir,
    authority: Authority,
}

fn id(path: &str) -> SpiffeId {
    SpiffeId::new(format!("spiffe://vsecm.com/{path}")).unwrap()
}

fn selectors(texts: &[&str]) -> Vec<Selector> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn myself() -> Caller {
    Caller { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
}

impl World {
    /// An authority with an admin socket whose delegate has its entry.
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::start(TrustDomain::new("vsecm.com").unwrap()).unwrap();
        let world = Self { folder, authority };
        world.put("0-agent", "agent", &["dev:agent"]);
        let admin = world.path("admin");
        let attested = selectors(&["dev:agent"]);
        let served = world.authority.serve_delegated(&admin, myself(), attested, id("agent"));
        served.unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name).join("api.sock")
    }

    fn put(&self, entry_id: &str, path: &str, wanted: &[&str]) {
        let entry = Entry::new(id(path), selectors(wanted), Lifetime::Renewed(TTL));
        self.authority.put_entry(entry_id, entry).unwrap();
    }

    fn workload(&self, name: &str, attested: &[&str]) -> PathBuf {
        let path = self.path(name);
        let attested = selectors(attested);
        self.authority.serve_workload(&path, myself(), attested).unwrap();
        path
    }

    async fn channel(&self, path: PathBuf) -> Channel {
        crate::dial::unix(path).await.unwrap()
    }

    async fn subscribe(
        &self,
        stated: &[&str],
    ) -> Result<Streaming<SubscribeToX509sviDsResponse>, Status> {
        let channel = self.channel(self.path("admin")).await;
        let selectors = stated
            .iter()
            .map(|text| text.split_once(':').unwrap())
            .map(|(kind, value)| types::Selector {
                r#type: kind.to_owned(),
                value: value.to_owned(),
            })
            .collect();
        let request = SubscribeToX509sviDsRequest { selectors, pid: 0 };
        let mut client = DelegatedIdentityClient::new(channel);
        Ok(client.subscribe_to_x509svi_ds(request).await?.into_inner())
    }
}

async fn next_ids(stream: &mut Streaming<SubscribeToX509sviDsResponse>) -> Vec<String> {
    let next = tokio::time::timeout(SOON, stream.message()).await;
    let message = next.unwrap().unwrap().unwrap();
    let svids = message.x509_svids.into_iter();
    svids.map(|svid| svid.x509_svid.unwrap().id.unwrap().path).collect()
}

async fn source(path: &Path) -> X509Source {
    let endpoint = format!("unix://{}", path.display());
    let builder = X509Source::builder().endpoint(endpoint);
    tokio::time::timeout(SOON, builder.build()).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_caller_gets_the_identity_of_its_socket() {
    let world = World::start();
    world.put("safe", "safe", &["dev:safe"]);
    let path = world.workload("safe", &["dev:safe", "unix:uid:1"]);
    let source = source(&path).await;
    assert_eq!(source.svid().unwrap().spiffe_id(), &id("safe"));
}

#[tokio::test]
async fn a_request_without_the_security_header_is_refused() {
    let world = World::start();
    world.put("safe", "safe", &["dev:safe"]);
    let path = world.workload("safe", &["dev:safe"]);
    let mut client = SpiffeWorkloadApiClient::new(world.channel(path).await);
    let refusal = client.fetch_x509svid(X509svidRequest {}).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument);
    assert_eq!(refusal.message(), "security header missing from request");
}

#[tokio::test]
async fn a_caller_whom_no_entry_matches_is_denied() {
    let world = World::start();
    let path = world.workload("nobody", &["dev:nobody"]);
    let mut client = SpiffeWorkloadApiClient::new(world.channel(path).await);
    let mut request = tonic::Request::new(X509svidRequest {});
    let header = "true".parse().unwrap();
    request.metadata_mut().insert("workload.spiffe.io", header);
    let refusal = match client.fetch_x509svid(request).await {
        Err(status) => status,
        Ok(stream) => stream.into_inner().message().await.unwrap_err(),
    };
    assert_eq!(refusal.code(), Code::PermissionDenied);
    assert_eq!(refusal.message(), "no identity issued");
}

#[tokio::test]
async fn an_svid_is_pushed_anew_at_half_of_its_life() {
    let world = World::start();
    let lifetime = Lifetime::Renewed(Duration::from_secs(2));
    let entry = Entry::new(id("safe"), selectors(&["dev:safe"]), lifetime);
    world.authority.put_entry("safe", entry).unwrap();
    let path = world.workload("safe", &["dev:safe"]);
    let source = source(&path).await;
    let first = source.svid().unwrap();
    let mut updates = source.updated();
    tokio::time::timeout(SOON, updates.changed()).await.unwrap().unwrap();
    let second = source.svid().unwrap();
    assert_eq!(second.spiffe_id(), first.spiffe_id());
    assert_ne!(first.leaf().as_bytes(), second.leaf().as_bytes(), "a new certificate");
}

#[tokio::test]
async fn a_delegate_hears_of_an_entry_and_of_its_withdrawal_on_one_stream() {
    let world = World::start();
    let mut stream = world.subscribe(&["k8s:ns:shop", "k8s:pod-uid:u1"]).await.unwrap();
    assert!(next_ids(&mut stream).await.is_empty());
    world.put("pod", "ns/shop/sa/web", &["k8s:pod-uid:u1"]);
    assert_eq!(next_ids(&mut stream).await, ["/ns/shop/sa/web"]);
    world.put("other", "ns/shop/sa/other", &["k8s:pod-uid:u2"]);
    assert!(world.authority.remove_entry("pod"));
    assert!(!world.authority.remove_entry("pod"));
    assert!(next_ids(&mut stream).await.is_empty());
}

#[tokio::test]
async fn a_delegate_gets_several_identities_in_the_order_of_entry_ids() {
    let world = World::start();
    world.put("b", "second", &["k8s:pod-uid:u1"]);
    world.put("a", "first", &["k8s:pod-uid:u1", "k8s:ns:shop"]);
    let mut stream = world.subscribe(&["k8s:ns:shop", "k8s:pod-uid:u1"]).await.unwrap();
    assert_eq!(next_ids(&mut stream).await, ["/first", "/second"]);
}

#[tokio::test]
async fn a_delegate_that_states_sentinels_selectors_gets_sentinels_identity() {
    let world = World::start();
    world.put("sentinel", "sentinel", &["dev:sentinel"]);
    let mut stream = world.subscribe(&["dev:sentinel"]).await.unwrap();
    assert_eq!(next_ids(&mut stream).await, ["/sentinel"]);
}

#[tokio::test]
async fn a_delegate_loses_its_stream_with_its_own_entry() {
    let world = World::start();
    let mut stream = world.subscribe(&["k8s:pod-uid:u1"]).await.unwrap();
    assert!(next_ids(&mut stream).await.is_empty());
    world.authority.remove_entry("0-agent");
    let status = stream.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "no identity issued"));
    world.put("0-agent", "somebody-else", &["dev:agent"]);
    let status = match world.subscribe(&["k8s:pod-uid:u1"]).await {
        Err(status) => status,
        Ok(mut stream) => stream.message().await.unwrap_err(),
    };
    assert_eq!(status.message(), "caller not configured as an authorized delegate");
}

#[tokio::test]
async fn a_delegate_that_states_nothing_is_refused() {
    let world = World::start();
    let refusal = world.subscribe(&[]).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_foreign_identity_comes_from_a_foreign_ca_with_our_bundle_beside_it() {
    let world = World::start();
    let foreign = SpiffeId::new("spiffe://elsewhere.org/safe").unwrap();
    let entry = Entry::new(foreign.clone(), selectors(&["dev:x"]), Lifetime::Renewed(TTL));
    world.authority.put_entry("x", entry).unwrap();
    let source = source(&world.workload("x", &["dev:x"])).await;
    assert_eq!(source.svid().unwrap().spiffe_id(), &foreign);
    let bundle = |name: &str| {
        let trust_domain = TrustDomain::new(name).unwrap();
        source.bundle_for_trust_domain(&trust_domain).unwrap()
    };
    assert!(bundle("vsecm.com").is_some());
    assert_ne!(
        bundle("vsecm.com").unwrap().authorities(),
        bundle("elsewhere.org").unwrap().authorities()
    );
}

#[tokio::test]
async fn shutdown_ends_streams_and_leaves_no_socket() {
    let world = World::start();
    let mut stream = world.subscribe(&["k8s:pod-uid:u1"]).await.unwrap();
    assert!(next_ids(&mut stream).await.is_empty());
    let shutdown = world.authority.shutdown();
    tokio::time::timeout(SOON, shutdown).await.unwrap();
    assert_eq!(stream.message().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(fs::read_dir(world.folder.path()).unwrap().count(), 0);
}
