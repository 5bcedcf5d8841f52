//! The wiring of `vsecm-csi`.

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::time::sleep;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::transport::{Server, server::Router};
use vsecm_node_agent_api::{channel::listen_alone, client::Door, process};

use crate::{
    args::Args,
    duty,
    mount::Kubelet,
    node::NodeService,
    plugin::{IdentityService, RegistrationService},
    proto::{
        registration::registration_server::RegistrationServer,
        v1::{identity_server::IdentityServer, node_server::NodeServer},
    },
    volumes::Volumes,
};

/// After SIGTERM every wait ends at once; what is half-done takes some bounded calls to peers.
const DRAIN: Duration = Duration::from_secs(20);

/// Runs until SIGTERM.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let terminated = process::terminated()?;
    let stop = CancellationToken::new();
    let kubelet = Kubelet::open(args.kubelet_dir.as_ref())?;
    let agent =
        Door { name: "node-agent", socket: args.node_agent_socket, rule: args.node_agent_peer };
    let keeper = Door { name: "the keeper", socket: args.keeper_socket, rule: args.keeper_peer };
    let volumes = Volumes::new((agent, keeper), kubelet, args.hold, stop.clone());
    let serving = async {
        if stop.run_until_cancelled(volumes.recover()).await.is_none() {
            return Ok(());
        }
        let _settled = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&volumes).stay_settled()));
        let _on_duty = AbortOnDropHandle::new(tokio::spawn(duty::run(Arc::clone(&volumes))));
        let (kubelet, node) = (args.kubelet_dir, args.node_name);
        let node = NodeService { volumes: Arc::clone(&volumes), kubelet, node };
        let csi = Server::builder()
            .add_service(IdentityServer::new(IdentityService))
            .add_service(NodeServer::new(node));
        let endpoint = args.kubelet_endpoint.unwrap_or_else(|| args.endpoint.clone());
        let registration = RegistrationServer::new(RegistrationService { endpoint });
        let registration = Server::builder().add_service(registration);
        // registration last: the kubelet calls the CSI socket the moment it sees the other
        let csi = serve(csi, Some(&args.endpoint), &stop)?;
        let registration = serve(registration, args.registration_socket.as_deref(), &stop)?;
        tracing::info!("serving");
        tokio::try_join!(csi, registration)?;
        volumes.tasks.close();
        volumes.tasks.wait().await;
        Ok(())
    };
    let drain = async {
        terminated.await;
        stop.cancel();
        sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => served,
        () = drain => anyhow::bail!("not everything came to its end in time after SIGTERM"),
    }
}

/// Serves on a Unix socket until `stop`, replacing what a dead predecessor left there. Root only:
/// whoever may call may have a volume mounted.
pub(crate) fn serve<'a>(
    router: Router,
    path: Option<&'a Path>,
    stop: &'a CancellationToken,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + 'a> {
    let listener = path.map(|path| listen_alone(path).with_context(|| path.display().to_string()));
    let listener = listener.transpose()?;
    Ok(async move {
        if let (Some(listener), Some(path)) = (listener, path) {
            let incoming = UnixListenerStream::new(listener);
            router.serve_with_incoming_shutdown(incoming, stop.cancelled()).await?;
            fs::remove_file(path)?;
        }
        Ok(())
    })
}
