//! The CSI Identity service, registration with the kubelet, and the sockets of both.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;
use tonic::{Request, Response, Status, async_trait};

use crate::proto::{
    csi::v1::{
        GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
        GetPluginInfoResponse, ProbeRequest, ProbeResponse, identity_server::Identity,
    },
    registration::{
        InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
        registration_server::Registration,
    },
};

/// The driver's name, as in the `CSIDriver` object and in pods.
pub const NAME: &str = "csi.vsecm.com";

/// A socket that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {}", path.display())]
pub struct ListenError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Listens at `path`, replacing what a dead predecessor left. Root only: whoever may call may
/// have a volume mounted.
pub fn listen(path: &Path) -> Result<UnixListener, ListenError> {
    let bound = || {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    bound().map_err(|source| ListenError {
        path: path.to_owned(),
        source,
    })
}

/// The Identity service. It is served only once the volumes are taken over, so it is always ready.
#[derive(Debug)]
pub struct IdentityService;

#[async_trait]
impl Identity for IdentityService {
    async fn get_plugin_info(
        &self,
        _request: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: NAME.to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: HashMap::new(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _request: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(GetPluginCapabilitiesResponse {}))
    }

    async fn probe(
        &self,
        _request: Request<ProbeRequest>,
    ) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse { ready: Some(true) }))
    }
}

/// What the kubelet asks at the socket in its folder of plugins.
#[derive(Debug)]
pub struct RegistrationService {
    /// The CSI socket as the kubelet sees it.
    pub endpoint: PathBuf,
}

#[async_trait]
impl Registration for RegistrationService {
    async fn get_info(
        &self,
        _request: Request<InfoRequest>,
    ) -> Result<Response<PluginInfo>, Status> {
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
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        if status.plugin_registered {
            tracing::info!("registered with the kubelet");
        } else {
            // the kubelet tries again by itself, with backoff
            tracing::error!(
                reason = status.error,
                "the kubelet did not register the driver"
            );
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
