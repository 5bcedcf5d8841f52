//! The CSI driver of a node, called past the kubelet: for requests that no kubelet makes.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tokio::{net::UnixStream, runtime};
use tonic::{Request, Status, transport::Endpoint};
use tower::service_fn;

use super::{
    container::VOLUME_NAME,
    created::Created,
    node::Node,
    proto::{
        NodePublishVolumeRequest, NodeUnpublishVolumeRequest, VolumeCapability,
        node_client::NodeClient,
        volume_capability::{
            AccessMode, AccessType, MountVolume, access_mode::Mode::SingleNodeWriter,
        },
    },
};

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
        self.runtime.block_on(async { self.client().node_publish_volume(request).await.map(drop) })
    }

    /// Unpublishes.
    pub(crate) fn unpublish(&self, request: NodeUnpublishVolumeRequest) -> Result<(), Status> {
        self.runtime
            .block_on(async { self.client().node_unpublish_volume(request).await.map(drop) })
    }

    fn client(&self) -> NodeClient<tonic::transport::Channel> {
        let socket = self.socket.clone();
        let connect = service_fn(move |_: tonic::transport::Uri| {
            let path = socket.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // the address is never looked at: the connector knows where to go
        let endpoint = Endpoint::from_static("http://unix");
        NodeClient::new(endpoint.connect_with_connector_lazy(connect))
    }
}

/// The request that the kubelet makes for a pod, to be changed by who forges.
pub(crate) fn request(pod: &Created, service_account: &str) -> NodePublishVolumeRequest {
    let digest = Sha256::digest(format!("{}{VOLUME_NAME}", pod.uid()));
    let context = [
        ("csi.storage.k8s.io/pod.name", pod.name()),
        ("csi.storage.k8s.io/pod.namespace", pod.namespace()),
        ("csi.storage.k8s.io/pod.uid", pod.uid()),
        ("csi.storage.k8s.io/serviceAccount.name", service_account),
        ("csi.storage.k8s.io/ephemeral", "true"),
    ];
    NodePublishVolumeRequest {
        volume_id: format!("csi-{}", hex::encode(digest)),
        publish_context: HashMap::new(),
        staging_target_path: String::new(),
        target_path: target(pod.uid()),
        volume_capability: Some(VolumeCapability {
            access_mode: Some(AccessMode { mode: SingleNodeWriter.into() }),
            access_type: Some(AccessType::Mount(MountVolume::default())),
        }),
        readonly: true,
        secrets: HashMap::new(),
        volume_context: context.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
    }
}

/// Where the kubelet wants the volume of a pod.
pub(crate) fn target(pod_uid: &str) -> String {
    format!("/var/lib/kubelet/pods/{pod_uid}/volumes/kubernetes.io~csi/{VOLUME_NAME}/mount")
}
