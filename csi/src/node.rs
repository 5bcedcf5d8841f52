//! The CSI Node service.

use std::{sync::Arc, time::Duration};

use tonic::{Request, Response, Status, async_trait};
use vsecm_node_agent_api::{
    client::{VolumeState, chain},
    frame::{Gravity, Serving},
    target::Target,
    volume::InodeKey,
};

use crate::{
    operator::Operator,
    proto::v1::{
        self, VolumeUsage,
        node_server::Node,
        node_service_capability::{Rpc, Type, rpc},
        volume_usage::Unit,
    },
    publish::{self, Refusal, required},
    volumes::{Held, Trouble, Volumes},
};

/// The service.
#[derive(Debug)]
pub(crate) struct NodeService {
    pub(crate) volumes: Arc<Volumes>,
    /// The kubelet's folder as the kubelet names it.
    pub(crate) kubelet: String,
    /// The node's name.
    pub(crate) node: String,
    pub(crate) operator: Operator,
}

impl NodeService {
    /// The volume that is published at that path, as a request names both.
    fn held(&self, volume: &str, path: &str) -> Option<Held> {
        let target = Target::below(&self.kubelet, path).ok()?.to_string();
        let held = self.volumes.held(&volume.parse().ok()?)?;
        (held.record.target == target).then_some(held)
    }
}

type Reply<T> = Result<Response<T>, Status>;

/// The kubelet gives this answer two minutes when it registers a driver, and tries again then.
const REGISTRATION: Duration = Duration::from_secs(100);

#[async_trait]
impl Node for NodeService {
    async fn node_publish_volume(
        &self,
        request: Request<v1::NodePublishVolumeRequest>,
    ) -> Reply<v1::NodePublishVolumeResponse> {
        let request = request.get_ref();
        let mut random = [0; 16];
        getrandom::fill(&mut random)
            .map_err(|none| Status::unavailable(format!("no random bytes: {none}")))?;
        let key = InodeKey::from_random(random);
        let record = match publish::parse(request, &self.kubelet, &self.operator, key) {
            Err(refusal) if refusal.can_heal() => self
                .held(&request.volume_id, &request.target_path)
                .map(|held| held.record)
                .ok_or_else(|| Status::unavailable(chain(&refusal)))?,
            parsed => parsed.map_err(|e| never(&e))?,
        };
        self.volumes.publish(record).await.map_err(|error| not_now(&error))?;
        Ok(Response::new(v1::NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<v1::NodeUnpublishVolumeRequest>,
    ) -> Reply<v1::NodeUnpublishVolumeResponse> {
        let request = request.get_ref();
        required("volume id", &request.volume_id).map_err(|e| never(&e))?;
        required("target path", &request.target_path).map_err(|e| never(&e))?;
        let target = Target::below(&self.kubelet, &request.target_path);
        if let (Ok(volume), Ok(target)) = (request.volume_id.parse(), target) {
            let gone = self.volumes.unpublish(volume, target).await;
            gone.map_err(|error| not_now(&error))?;
        } else {
            // it cannot have been published here, so it is gone, which is what the kubelet wants
            tracing::warn!("unpublish of a volume that cannot be ours");
        }
        Ok(Response::new(v1::NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<v1::NodeGetVolumeStatsRequest>,
    ) -> Reply<v1::NodeGetVolumeStatsResponse> {
        let request = request.get_ref();
        required("volume id", &request.volume_id).map_err(|e| never(&e))?;
        required("volume path", &request.volume_path).map_err(|e| never(&e))?;
        if !self.volumes.recovered.is_cancelled() {
            return Err(not_now(&Trouble::Recovering));
        }
        let held = self.held(&request.volume_id, &request.volume_path);
        let held = held.ok_or_else(|| Status::not_found("no such volume is published there"))?;
        // the mount itself is never asked: statfs of a stalled server would hang the kubelet
        Ok(Response::new(stats_of(self.volumes.look(&held).await)))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<v1::NodeGetCapabilitiesRequest>,
    ) -> Reply<v1::NodeGetCapabilitiesResponse> {
        use rpc::Type::{GetVolumeStats, VolumeCondition, VolumeMountGroup};
        let capability = |rpc: rpc::Type| v1::NodeServiceCapability {
            r#type: Some(Type::Rpc(Rpc { r#type: rpc.into() })),
        };
        let all = [GetVolumeStats, VolumeCondition, VolumeMountGroup].map(capability);
        Ok(Response::new(v1::NodeGetCapabilitiesResponse { capabilities: all.into() }))
    }

    async fn node_get_info(
        &self,
        _: Request<v1::NodeGetInfoRequest>,
    ) -> Reply<v1::NodeGetInfoResponse> {
        // the kubelet registers the driver with the answer: pods come to this node then
        let recovered = self.volumes.wait_for_recovery(REGISTRATION).await;
        recovered.map_err(|error| not_now(&error))?;
        // 0: as many volumes as the scheduler likes
        let (node_id, max_volumes_per_node) = (self.node.clone(), 0);
        Ok(Response::new(v1::NodeGetInfoResponse { node_id, max_volumes_per_node }))
    }
}

/// The kubelet comes again, and an unpublish is sure to come.
fn not_now(error: &Trouble) -> Status {
    match error {
        Trouble::Crowded(_) => Status::resource_exhausted(chain(error)),
        _ => Status::unavailable(chain(error)),
    }
}

/// Final: the kubelet forgets the volume without an unpublish, and nothing is left behind.
fn never(refusal: &Refusal) -> Status {
    Status::invalid_argument(chain(refusal))
}

fn stats_of(state: VolumeState) -> v1::NodeGetVolumeStatsResponse {
    let VolumeState { serving, condition, gravity, bytes, files } = state;
    let usage = |unit: Unit, amount| {
        let used = i64::try_from(amount).unwrap_or(i64::MAX);
        VolumeUsage { available: 0, total: used, used, unit: unit.into() }
    };
    let abnormal = serving == Serving::No || gravity == Gravity::Abnormal;
    let message = match (serving, condition) {
        (Serving::Yes, None) => "served".to_owned(),
        (Serving::Yes, Some(condition)) => condition,
        (Serving::No, None) => "the volume is not served at the moment".to_owned(),
        (Serving::No, Some(why)) => format!("the volume is not served at the moment: {why}"),
    };
    v1::NodeGetVolumeStatsResponse {
        usage: vec![usage(Unit::Bytes, bytes), usage(Unit::Inodes, files)],
        volume_condition: Some(v1::VolumeCondition { abnormal, message }),
    }
}

#[cfg(test)]
mod tests {
    use tonic::{Code, transport::Endpoint};

    use super::*;
    use crate::{
        app,
        plugin::{IdentityService, NAME},
        proto::v1::{
            identity_client::IdentityClient, identity_server::IdentityServer,
            node_client::NodeClient, node_server::NodeServer,
        },
        publish::tests::mk_request,
        volumes::{
            Crowded,
            tests::{mk_record, mk_volumes, story},
        },
    };

    type Forgery = (fn(&mut v1::NodePublishVolumeRequest), Code, &'static str);

    fn say(request: &mut v1::NodePublishVolumeRequest, key: &str, value: &str) {
        request.volume_context.insert(key.to_owned(), value.to_owned());
    }

    /// What no honest kubelet of a well-kept cluster sends, the code, and what the sentence names.
    fn forgeries() -> Vec<Forgery> {
        use Code::{InvalidArgument, Unavailable};
        const UID: &str = "csi.storage.k8s.io/pod.uid";
        const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";
        vec![
            (|r| r.volume_id.clear(), InvalidArgument, "volume id"),
            (|r| r.target_path.clear(), InvalidArgument, "target path"),
            (|r| r.target_path = "/etc".to_owned(), InvalidArgument, "target path"),
            (|r| r.volume_capability = None, InvalidArgument, "capability"),
            (|r| r.readonly = false, InvalidArgument, "readOnly"),
            (|r| r.staging_target_path = "/x".to_owned(), InvalidArgument, "staging"),
            (|r| say(r, "csi.storage.k8s.io/ephemeral", "false"), InvalidArgument, "persistent"),
            (|r| say(r, UID, "another"), InvalidArgument, "the pod with uid"),
            (|r| say(r, "csi.storage.k8s.io/pod.name", "../x"), InvalidArgument, "pod.name"),
            (|r| say(r, "items", "canary"), InvalidArgument, "items"),
            (|r| say(r, "item", "canary"), InvalidArgument, "volumeAttributes has"),
            (|r| say(r, "layout", "canary"), InvalidArgument, "layout"),
            (
                |r| drop(r.secrets.insert("a".to_owned(), "canary".to_owned())),
                InvalidArgument,
                "nodePublishSecretRef",
            ),
            (|r| drop(r.volume_context.remove(UID)), Unavailable, "podInfoOnMount"),
            (|r| r.volume_context.clear(), Unavailable, "podInfoOnMount"),
            (|r| say(r, TOKENS, "canary"), Unavailable, "token"),
            (|r| say(r, "mode", "0400"), Unavailable, "mode"),
        ]
    }

    #[tokio::test]
    async fn the_services_answer_on_one_socket() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = mk_volumes(dir.path());
        let identity = IdentityService { recovered: volumes.recovered.clone() };
        let (kubelet, node) = ("/var/lib/kubelet".to_owned(), "node-1".to_owned());
        let operator = Operator { enforced: "mode=0440".parse().unwrap(), ..Operator::default() };
        let router = tonic::transport::Server::builder()
            .add_service(IdentityServer::new(identity))
            .add_service(NodeServer::new(NodeService { volumes, kubelet, node, operator }));
        let (socket, stop) =
            (dir.path().join("csi.sock"), tokio_util::sync::CancellationToken::new());
        let (path, stopped) = (socket.clone(), stop.clone());
        let server = tokio::spawn(async move {
            app::serve(router, Some(&path), &stopped).unwrap().await.unwrap();
        });
        while !socket.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let channel = Endpoint::try_from(format!("unix://{}", socket.display())).unwrap();
        let channel = channel.connect().await.unwrap();

        let mut identity = IdentityClient::new(channel.clone());
        let info = identity.get_plugin_info(v1::GetPluginInfoRequest {}).await.unwrap();
        assert_eq!(info.into_inner().name, NAME);
        let ready = identity.probe(v1::ProbeRequest {}).await.unwrap().into_inner().ready;
        assert_eq!(ready, Some(true));

        let mut node = NodeClient::new(channel);
        let info = node.node_get_info(v1::NodeGetInfoRequest {}).await.unwrap();
        assert_eq!(info.into_inner().node_id, "node-1");
        let all = node.node_get_capabilities(v1::NodeGetCapabilitiesRequest {}).await.unwrap();
        let kinds: Vec<i32> = all
            .into_inner()
            .capabilities
            .into_iter()
            .map(|c| match c.r#type {
                Some(Type::Rpc(rpc)) => rpc.r#type,
                None => 0,
            })
            .collect();
        assert_eq!(kinds, [2, 4, 6]);

        for (forge, code, said) in forgeries() {
            let mut request = mk_request();
            forge(&mut request);
            let refused = node.node_publish_volume(request).await.expect_err(said);
            assert_eq!(refused.code(), code, "{refused}");
            assert!(refused.message().contains(said), "{refused}");
            assert!(!refused.message().contains("canary"), "{refused}");
        }
        let mut request = v1::NodeUnpublishVolumeRequest::default();
        let refused = node.node_unpublish_volume(request.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        request.volume_id = "csi-1".to_owned();
        request.target_path = "/somewhere/else".to_owned();
        node.node_unpublish_volume(request).await.expect("not ours, so it is gone");
        let stats = v1::NodeGetVolumeStatsRequest {
            volume_id: "csi-1".to_owned(),
            volume_path: "/var/lib/kubelet/x".to_owned(),
            ..Default::default()
        };
        assert_eq!(node.node_get_volume_stats(stats).await.unwrap_err().code(), Code::NotFound);

        stop.cancel();
        drop((identity, node));
        server.await.unwrap();
        assert!(!socket.exists());
    }

    #[test]
    fn what_the_operator_changes_later_disturbs_no_volume_that_is_up() {
        story(|bench| async move {
            let kubelet = bench.dir.display().to_string();
            let (volumes, node) = (Arc::clone(&bench.volumes), String::new());
            let enforced = "mode=0400".parse().unwrap();
            let operator = Operator { enforced, ..Operator::default() };
            let service = NodeService { volumes, kubelet, node, operator };
            let again = |change: fn(&mut v1::NodePublishVolumeRequest)| {
                let (record, mut request) = (mk_record(1), mk_request());
                request.volume_id = record.volume.to_string();
                request.target_path = bench.dir.join(&record.target).display().to_string();
                say(&mut request, "csi.storage.k8s.io/pod.uid", record.pod.uid.as_str());
                say(&mut request, "mode", "0444");
                change(&mut request);
                service.node_publish_volume(Request::new(request))
            };
            assert_eq!(again(|_| {}).await.unwrap_err().code(), Code::Unavailable);
            bench.publish().await.unwrap();
            again(|_| {}).await.unwrap();
            again(|r| r.volume_context.clear()).await.unwrap();
            again(|r| r.volume_id.push('0')).await.unwrap_err();
            again(|r| r.target_path = r.target_path.replace("/v/", "/w/")).await.unwrap_err();
            let staged = again(|r| r.staging_target_path = "/x".to_owned()).await;
            assert_eq!(staged.unwrap_err().code(), Code::InvalidArgument);
        });
    }

    #[test]
    fn a_volume_too_many_is_refused_with_a_code_after_which_the_kubelet_unpublishes_and_comes_again()
     {
        let crowded = not_now(&Trouble::Crowded(Crowded::Pod));
        assert_eq!(crowded.code(), Code::ResourceExhausted);
        assert!(crowded.message().contains("has 8 volumes"), "{crowded}");
        assert_eq!(not_now(&Trouble::Busy).code(), Code::Unavailable);
    }

    #[test]
    fn stats_tell_what_an_operator_should_know() {
        let of = |serving, condition: Option<&str>, gravity| {
            let condition = condition.map(str::to_owned);
            stats_of(VolumeState { serving, condition, gravity, bytes: 7, files: 2 })
        };
        let said = |stats: v1::NodeGetVolumeStatsResponse| {
            let condition = stats.volume_condition.unwrap();
            (condition.abnormal, condition.message)
        };
        let stats = of(Serving::Yes, None, Gravity::Passing);
        assert_eq!((stats.usage[0].total, stats.usage[1].used), (7, 2));
        assert_eq!((stats.usage[0].unit(), stats.usage[1].unit()), (Unit::Bytes, Unit::Inodes));
        assert_eq!(said(stats), (false, "served".to_owned()));
        let away = || Some("safe is away");
        let passing = said(of(Serving::Yes, away(), Gravity::Passing));
        assert_eq!(passing, (false, "safe is away".to_owned()));
        assert!(said(of(Serving::Yes, away(), Gravity::Abnormal)).0);
        assert!(said(of(Serving::No, None, Gravity::Passing)).0);
    }
}
