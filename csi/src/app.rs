//! The wiring of `vsecm-csi`.

use std::{io, mem::ManuallyDrop, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use nix::sched::{CloneFlags, unshare};
use tokio::time::sleep;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::transport::{Server, server::Router};
use vsecm_node_agent_api::{
    channel::listen_alone, client::Door, process, turn::Turn, volume::PodUid,
};

use crate::{
    args::Args,
    duty,
    health::Health,
    mount::{Kubelet, SELINUX},
    node::NodeService,
    operator::Operator,
    plugin::{IdentityService, RegistrationService},
    proto::{
        registration::registration_server::RegistrationServer,
        v1::{identity_server::IdentityServer, node_server::NodeServer},
    },
    volumes::{Holds, Means, Volumes},
};

/// After SIGTERM every wait ends at once; what is half-done takes some bounded calls to peers.
const DRAIN: Duration = Duration::from_secs(20);

/// Leaves the network that this process has in common with the containers of its pod: all it needs
/// are sockets in folders.
pub fn leave_network() -> io::Result<()> {
    Ok(unshare(CloneFlags::CLONE_NEWNET)?)
}

/// Runs until SIGTERM.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let terminated = process::terminated()?;
    let (stop, health) = (CancellationToken::new(), Health::default());
    let _told = match &args.health_socket {
        Some(path) => {
            let (listener, _name) =
                listen_alone(path).with_context(|| path.display().to_string())?;
            Some(AbortOnDropHandle::new(tokio::spawn(health.clone().tell(listener))))
        }
        None => None,
    };
    let kubelet = Kubelet::open(args.kubelet_dir.as_ref())?;
    let agent =
        Door { name: "node-agent", socket: args.node_agent_socket, rule: args.node_agent_peer };
    let keeper = Door { name: "the keeper", socket: args.keeper_socket, rule: args.keeper_peer };
    let volumes = Volumes::new(Means {
        agent,
        keeper,
        kubelet,
        label: args.selinux_context.where_needed(SELINUX.as_ref()),
        holds: Holds { first: args.first_hold.min(args.hold), later: args.hold },
        stop: stop.clone(),
    });
    let serving = async {
        if let (Some(lock), Some(pod)) = (&args.lock, &args.pod_uid) {
            let turn = stop.run_until_cancelled(stand_by(lock, pod, &health)).await;
            // not given up by us, not even at the end: the kernel does that when no thread is left
            let Some(_turn) = turn.transpose()?.map(ManuallyDrop::new) else { return Ok(()) };
        }
        health.starts();
        let (kubelet, node) = (args.kubelet_dir, args.node_name);
        let operator = Operator { defaults: args.volume_defaults, enforced: args.volume_enforced };
        let node = NodeService { volumes: Arc::clone(&volumes), kubelet, node, operator };
        let identity = IdentityService { recovered: volumes.recovered.clone() };
        let csi = Server::builder()
            .add_service(IdentityServer::new(identity))
            .add_service(NodeServer::new(node));
        let endpoint = args.kubelet_endpoint.unwrap_or_else(|| args.endpoint.clone());
        let registration = RegistrationService { endpoint, health: health.clone() };
        let registration = RegistrationServer::new(registration);
        let registration = Server::builder().add_service(registration);
        // before the volumes are there, which takes as long as the keeper is away: the kubelet gives
        // a dead socket up, and tries it again after minutes only. Registration last: the kubelet
        // calls the CSI socket the moment it sees the other
        let csi = serve(csi, Some(&args.endpoint), &stop)?;
        if args.registration_socket.is_none() {
            health.registration(Ok(()));
        }
        let registration = serve(registration, args.registration_socket.as_deref(), &stop)?;
        let _working = AbortOnDropHandle::new(tokio::spawn(work(
            Arc::clone(&volumes),
            health.clone(),
            args.collect,
        )));
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

/// All that is done beside what the kubelet asks for; for ever.
async fn work(volumes: Arc<Volumes>, health: Health, collect: Duration) {
    volumes.recover().await;
    health.is_up();
    tokio::join!(
        Arc::clone(&volumes).stay_settled(),
        Arc::clone(&volumes).collect(collect),
        duty::run(Arc::clone(&volumes)),
    );
}

/// Waits until this pod has the turn to serve the node.
async fn stand_by(lock: &Path, pod: &PodUid, health: &Health) -> anyhow::Result<Turn> {
    let at = || lock.display().to_string();
    if let Some(turn) = Turn::look(lock, pod).with_context(at)? {
        return Ok(turn);
    }
    health.stands_by();
    Turn::wait(lock, pod).await.with_context(at)
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
        if let Some((listener, name)) = listener {
            let incoming = UnixListenerStream::new(listener);
            router.serve_with_incoming_shutdown(incoming, stop.cancelled()).await?;
            name.give_up()?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_left_of_the_network_is_a_loopback_that_is_down() {
        // a thread of the test's own, which takes its network with it
        let left = std::thread::spawn(|| {
            leave_network().expect("tests with namespaces run as root, or in a user namespace");
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            let down = socket.send_to(b"x", "127.0.0.1:9").unwrap_err();
            assert_eq!(down.kind(), io::ErrorKind::NetworkUnreachable);
            fs::read_to_string("/proc/thread-self/net/dev").unwrap()
        });
        let devices = left.join().unwrap();
        let names: Vec<&str> =
            devices.lines().skip(2).map(|l| l.split(':').next().unwrap().trim()).collect();
        assert_eq!(names, ["lo"], "{devices}");
    }
}
