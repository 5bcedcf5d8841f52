//! The wiring of `vsecm-csi`.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    agent::Agent,
    args::Args,
    deposit::Deposit,
    duty,
    mount::Kubelet,
    node::NodeService,
    plugin::{RegistrationService, listen},
    reconcile, serve,
    volumes::Volumes,
};

/// After SIGTERM every wait ends at once; what is half-done takes some bounded calls to peers.
const DRAIN: Duration = Duration::from_secs(20);

/// Runs until SIGTERM.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let stop = stop_on_signal()?;
    let kubelet = Kubelet::open(args.kubelet_dir.as_ref())?;
    let agent = Agent {
        socket: args.node_agent_socket,
        peer: args.node_agent_peer,
    };
    let deposit = Deposit::new(args.keeper_socket, args.keeper_peer);
    let volumes = Volumes::new(agent, deposit, kubelet, args.hold, stop.clone());
    tokio::select! {
        () = reconcile::recover(&volumes) => {}
        () = stop.cancelled() => return Ok(()),
    }
    let _reconcile = AbortOnDropHandle::new(tokio::spawn(reconcile::run(Arc::clone(&volumes))));
    let _duty = AbortOnDropHandle::new(tokio::spawn(duty::run(Arc::clone(&volumes))));

    let node = NodeService {
        volumes: Arc::clone(&volumes),
        kubelet: args.kubelet_dir,
        node: args.node_name,
    };
    let registration = RegistrationService {
        endpoint: args
            .kubelet_endpoint
            .unwrap_or_else(|| args.endpoint.clone()),
    };
    let csi = serve::csi(listen(&args.endpoint)?, node, stop.clone());
    // after the CSI socket: the kubelet calls it the moment it sees this one
    let registered = args
        .registration_socket
        .as_deref()
        .map(listen)
        .transpose()?;
    tracing::info!(endpoint = %args.endpoint.display(), "serving");
    let drained = async {
        let served = tokio::try_join!(
            csi,
            serve::registration(registered, registration, stop.clone())
        );
        volumes.landed().await;
        served
    };
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = drained => {
            served.context("a socket could not be served")?;
        }
        () = late => tracing::error!("not everything has ended in time"),
    }
    remove_sockets(args.registration_socket.into_iter().chain([args.endpoint]));
    Ok(())
}

fn remove_sockets(sockets: impl Iterator<Item = PathBuf>) {
    for socket in sockets {
        if let Err(error) = fs::remove_file(&socket) {
            tracing::warn!(%error, socket = %socket.display(), "cannot remove the socket");
        }
    }
}

/// A token that SIGTERM or SIGINT cancels.
pub fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        token.cancel();
    });
    Ok(stop)
}

/// Two descriptors per volume are more than the soft limit of old.
pub fn raise_descriptor_limit() -> anyhow::Result<()> {
    let (_soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}
