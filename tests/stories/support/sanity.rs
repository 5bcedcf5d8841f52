//! What csi-sanity needs beside the driver: a controller, which a driver of inline volumes has not,
//! and a relay that says its calls as the kubelet would say them.

use std::{collections::HashMap, path::Path};

use tokio::{net::UnixListener, task::JoinHandle};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    Request, Response, Status, async_trait,
    transport::{Channel, Server},
};
use vsecm_tests::proto::csi::{
    self, controller_server, identity_client::IdentityClient, identity_server,
    node_client::NodeClient, node_server,
};

type Reply<T> = Result<Response<T>, Status>;

/// Serves the controller at `socket`: its volumes are those of one pod.
pub(crate) fn controller(socket: &Path, context: HashMap<String, String>) -> JoinHandle<()> {
    let controller = Controller { context };
    let router = Server::builder()
        .add_service(identity_server::IdentityServer::new(Nobody))
        .add_service(controller_server::ControllerServer::new(controller));
    let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
    tokio::spawn(async move { router.serve_with_incoming(incoming).await.unwrap() })
}

/// Serves the relay to the driver at `socket`.
pub(crate) fn relay(socket: &Path, driver: Channel) -> JoinHandle<()> {
    let (identity, node) = (IdentityClient::new(driver.clone()), NodeClient::new(driver));
    let router = Server::builder()
        .add_service(identity_server::IdentityServer::new(Relay(identity)))
        .add_service(node_server::NodeServer::new(Relay(node)));
    let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
    tokio::spawn(async move { router.serve_with_incoming(incoming).await.unwrap() })
}

struct Controller {
    context: HashMap<String, String>,
}

#[async_trait]
impl controller_server::Controller for Controller {
    async fn create_volume(
        &self,
        request: Request<csi::CreateVolumeRequest>,
    ) -> Reply<csi::CreateVolumeResponse> {
        let (volume_id, volume_context) = (request.into_inner().name, self.context.clone());
        let volume = Some(csi::Volume { capacity_bytes: 0, volume_id, volume_context });
        Ok(Response::new(csi::CreateVolumeResponse { volume }))
    }

    async fn delete_volume(
        &self,
        _: Request<csi::DeleteVolumeRequest>,
    ) -> Reply<csi::DeleteVolumeResponse> {
        Ok(Response::new(csi::DeleteVolumeResponse {}))
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<csi::ControllerGetCapabilitiesRequest>,
    ) -> Reply<csi::ControllerGetCapabilitiesResponse> {
        Ok(Response::new(csi::ControllerGetCapabilitiesResponse {}))
    }
}

/// The controller's identity.
struct Nobody;

#[async_trait]
impl identity_server::Identity for Nobody {
    async fn get_plugin_info(
        &self,
        _: Request<csi::GetPluginInfoRequest>,
    ) -> Reply<csi::GetPluginInfoResponse> {
        let (name, vendor_version) = ("controller.vsecm.com".to_owned(), String::new());
        Ok(Response::new(csi::GetPluginInfoResponse { name, vendor_version }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Reply<csi::GetPluginCapabilitiesResponse> {
        const CONTROLLER_SERVICE: i32 = 1;
        let service = csi::plugin_capability::Service { r#type: CONTROLLER_SERVICE };
        let r#type = Some(csi::plugin_capability::Type::Service(service));
        let capabilities = vec![csi::PluginCapability { r#type }];
        Ok(Response::new(csi::GetPluginCapabilitiesResponse { capabilities }))
    }

    async fn probe(&self, _: Request<csi::ProbeRequest>) -> Reply<csi::ProbeResponse> {
        Ok(Response::new(csi::ProbeResponse { ready: Some(true) }))
    }
}

struct Relay<C>(C);

#[async_trait]
impl identity_server::Identity for Relay<IdentityClient<Channel>> {
    async fn get_plugin_info(
        &self,
        request: Request<csi::GetPluginInfoRequest>,
    ) -> Reply<csi::GetPluginInfoResponse> {
        self.0.clone().get_plugin_info(request.into_inner()).await
    }

    async fn get_plugin_capabilities(
        &self,
        request: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Reply<csi::GetPluginCapabilitiesResponse> {
        self.0.clone().get_plugin_capabilities(request.into_inner()).await
    }

    async fn probe(&self, request: Request<csi::ProbeRequest>) -> Reply<csi::ProbeResponse> {
        self.0.clone().probe(request.into_inner()).await
    }
}

/// csi-sanity's folder of a volume ends in `target`, the kubelet's in `mount`.
fn kubelets(path: &str) -> String {
    match path.strip_suffix("/target") {
        Some(folder) => format!("{folder}/mount"),
        None => path.to_owned(),
    }
}

#[async_trait]
impl node_server::Node for Relay<NodeClient<Channel>> {
    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Reply<csi::NodePublishVolumeResponse> {
        let mut request = request.into_inner();
        request.target_path = kubelets(&request.target_path);
        // csi-sanity never says it, a pod with an inline volume of ours always
        request.readonly = true;
        self.0.clone().node_publish_volume(request).await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Reply<csi::NodeUnpublishVolumeResponse> {
        let mut request = request.into_inner();
        request.target_path = kubelets(&request.target_path);
        self.0.clone().node_unpublish_volume(request).await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<csi::NodeGetVolumeStatsRequest>,
    ) -> Reply<csi::NodeGetVolumeStatsResponse> {
        let mut request = request.into_inner();
        request.volume_path = kubelets(&request.volume_path);
        self.0.clone().node_get_volume_stats(request).await
    }

    async fn node_get_capabilities(
        &self,
        request: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Reply<csi::NodeGetCapabilitiesResponse> {
        self.0.clone().node_get_capabilities(request.into_inner()).await
    }

    async fn node_get_info(
        &self,
        request: Request<csi::NodeGetInfoRequest>,
    ) -> Reply<csi::NodeGetInfoResponse> {
        self.0.clone().node_get_info(request.into_inner()).await
    }
}
