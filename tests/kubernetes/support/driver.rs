//! The CSI driver of a node, called past the kubelet: for requests that no kubelet makes.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::runtime;
use tonic::{Request, Status, transport::Channel};
use vsecm_tests::{
    PodSpec, dial,
    kubelet::request,
    proto::csi::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest, node_client::NodeClient},
};

use super::{created::Created, node::Node};

const KUBELET: &str = "/var/lib/kubelet";
const SOCKET: &str = "/var/lib/kubelet/plugins/csi.vsecm.com/csi.sock";

/// The driver of a node.
#[derive(Debug)]
pub(crate) struct Driver {
    socket: PathBuf,
    runtime: runtime::Runtime,
}

impl Driver {
    /// The driver of a node.
    pub(crate) fn of(node: &Node) -> Self {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { socket: node.reach(SOCKET), runtime }
    }

    /// Publishes; a call that is held longer than `within` ends as cancelled.
    pub(crate) fn publish(
        &self,
        request: NodePublishVolumeRequest,
        within: Duration,
    ) -> Result<(), Status> {
        let mut request = Request::new(request);
        request.set_timeout(within);
        self.runtime
            .block_on(async { self.client().await.node_publish_volume(request).await.map(drop) })
    }

    /// Unpublishes.
    pub(crate) fn unpublish(&self, request: NodeUnpublishVolumeRequest) -> Result<(), Status> {
        self.runtime
            .block_on(async { self.client().await.node_unpublish_volume(request).await.map(drop) })
    }

    async fn client(&self) -> NodeClient<Channel> {
        let channel = dial::unix(self.socket.clone()).await;
        NodeClient::new(channel.expect("csi listens"))
    }
}

/// The request that the kubelet makes for a pod, to be changed by who forges.
pub(crate) fn request(pod: &Created, service_account: &str) -> NodePublishVolumeRequest {
    let mut spec = PodSpec::new(pod.name()).namespace(pod.namespace());
    service_account.clone_into(&mut spec.service_account);
    request::publish(&spec, pod.uid(), &request::target(Path::new(KUBELET), pod.uid()))
}

/// Where the kubelet wants the volume of a pod.
pub(crate) fn target(pod_uid: &str) -> String {
    request::target(Path::new(KUBELET), pod_uid).display().to_string()
}
