//! The CSI Node service.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};
use vsecm_node_agent_api::{frame::Serving, volume::VolumeId};

use crate::{
    agent::State,
    proto::csi::v1::{
        NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest,
        NodeGetInfoResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse,
        NodePublishVolumeRequest, NodePublishVolumeResponse, NodeServiceCapability,
        NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, VolumeCondition, VolumeUsage,
        node_server::Node,
        node_service_capability::{Rpc, Type, rpc},
        volume_usage::Unit,
    },
    publish, status,
    target::Target,
    volumes::Volumes,
};

/// The service.
#[derive(Debug)]
pub struct NodeService {
    /// The volumes.
    pub volumes: Arc<Volumes>,
    /// The kubelet's folder as the kubelet names it.
    pub kubelet: String,
    /// The node's name.
    pub node: String,
}

#[async_trait]
impl Node for NodeService {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let record = publish::parse(request.get_ref(), &self.kubelet)
            .map_err(|refusal| status::malformed(&refusal))?;
        let published = self.volumes.publish(record).await;
        published.map_err(|error| status::not_now(&error))?;
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let NodeUnpublishVolumeRequest {
            volume_id,
            target_path,
        } = request.into_inner();
        required("volume id", &volume_id)?;
        required("target path", &target_path)?;
        let volume = volume_id.parse::<VolumeId>();
        let target = Target::below(&self.kubelet, &target_path);
        // a volume that cannot have been published here is gone, which is what the kubelet wants
        if let (Ok(volume), Ok(target)) = (volume, target) {
            let gone = self.volumes.unpublish(volume, target).await;
            gone.map_err(|error| status::not_now(&error))?;
        } else {
            tracing::warn!("unpublish of a volume that cannot be ours");
        }
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let request = request.get_ref();
        required("volume id", &request.volume_id)?;
        required("volume path", &request.volume_path)?;
        let unknown = || Status::not_found("no such volume is published at this path on this node");
        let volume = request.volume_id.parse().map_err(|_rule| unknown())?;
        let target =
            Target::below(&self.kubelet, &request.volume_path).map_err(|_elsewhere| unknown())?;
        let held = self.volumes.table.get(&volume).ok_or_else(unknown)?;
        if held.record.target != target.to_string() {
            return Err(unknown());
        }
        // the mount itself is never asked: statfs of a stalled server would hang the kubelet
        let state = self.volumes.agent.state(&volume).await;
        let state = state.map_err(|error| status::unknown_state(&error))?;
        Ok(Response::new(stats_of(state)))
    }

    async fn node_get_capabilities(
        &self,
        _request: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let capabilities = [
            rpc::Type::GetVolumeStats,
            rpc::Type::VolumeCondition,
            rpc::Type::VolumeMountGroup,
        ];
        let capabilities = capabilities.map(|r#type| NodeServiceCapability {
            r#type: Some(Type::Rpc(Rpc {
                r#type: r#type.into(),
            })),
        });
        Ok(Response::new(NodeGetCapabilitiesResponse {
            capabilities: capabilities.into(),
        }))
    }

    async fn node_get_info(
        &self,
        _request: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.node.clone(),
            // as many as the scheduler likes
            max_volumes_per_node: 0,
        }))
    }
}

fn required(what: &str, text: &str) -> Result<(), Status> {
    if text.is_empty() {
        let sentence = format!("the request has no {what}: the kubelet gives one with every call");
        return Err(Status::invalid_argument(sentence));
    }
    Ok(())
}

fn stats_of(state: State) -> NodeGetVolumeStatsResponse {
    let usage = |unit: Unit, amount: u64| {
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        VolumeUsage {
            available: 0,
            total: amount,
            used: amount,
            unit: unit.into(),
        }
    };
    let (abnormal, message) = match (state.serving, state.condition) {
        (Serving::Yes, None) => (false, "served".to_owned()),
        (Serving::Yes, Some(condition)) => (true, condition),
        (Serving::No, _) => (true, "the volume is not served at the moment".to_owned()),
    };
    NodeGetVolumeStatsResponse {
        usage: vec![
            usage(Unit::Bytes, state.bytes),
            usage(Unit::Inodes, state.files),
        ],
        volume_condition: Some(VolumeCondition { abnormal, message }),
    }
}
