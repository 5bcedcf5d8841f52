//! The CSI Identity service and the registration with the kubelet.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};

use crate::{
    health::Health,
    proto::{
        registration::{
            InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
            registration_server::Registration,
        },
        v1::{self, identity_server::Identity},
    },
};

/// The driver's name, as in the `CSIDriver` object and in pods.
pub const NAME: &str = "csi.vsecm.com";

type Reply<T> = Result<Response<T>, Status>;

/// The Identity service.
#[derive(Debug)]
pub(crate) struct IdentityService {
    /// Whether the volumes have been taken over.
    pub(crate) recovered: CancellationToken,
}

#[async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _: Request<v1::GetPluginInfoRequest>,
    ) -> Reply<v1::GetPluginInfoResponse> {
        let (name, vendor_version) = (NAME.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        Ok(Response::new(v1::GetPluginInfoResponse { name, vendor_version, ..Default::default() }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<v1::GetPluginCapabilitiesRequest>,
    ) -> Reply<v1::GetPluginCapabilitiesResponse> {
        Ok(Response::new(v1::GetPluginCapabilitiesResponse {}))
    }

    async fn probe(&self, _: Request<v1::ProbeRequest>) -> Reply<v1::ProbeResponse> {
        Ok(Response::new(v1::ProbeResponse { ready: Some(self.recovered.is_cancelled()) }))
    }
}

/// What the kubelet asks at the socket in its folder of plugins.
#[derive(Debug)]
pub(crate) struct RegistrationService {
    /// The CSI socket as the kubelet sees it.
    pub(crate) endpoint: PathBuf,
    pub(crate) health: Health,
}

#[async_trait]
impl Registration for RegistrationService {
    async fn get_info(&self, _: Request<InfoRequest>) -> Reply<PluginInfo> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: NAME.to_owned(),
            endpoint: self.endpoint.display().to_string(),
            supported_versions: vec!["1.0.0".to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Reply<RegistrationStatusResponse> {
        let RegistrationStatus { plugin_registered, error } = request.into_inner();
        if plugin_registered {
            self.health.registration(Ok(()));
        } else {
            // the kubelet tries again by itself, with backoff
            tracing::error!(error, "the kubelet did not register the driver");
            self.health.registration(Err(error));
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
