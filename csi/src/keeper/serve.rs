//! The keeper's socket.

use std::{
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use vsecm_node_agent_api::{
    channel::{ChannelError, Connection, Listener},
    frame::KeeperRequest,
    peer::PeerRule,
};

use super::{Role, Shelf};

/// Connections of one peer at most, so that a peer gone wild takes neither memory nor the other's place.
const CONNECTION_LIMIT: usize = 64;

/// Serves until `stop`. All descriptors are closed with the shelf.
pub async fn serve(listener: Listener, roles: &[(Role, PeerRule)], stop: CancellationToken) {
    let shelf = Arc::new(Mutex::new(Shelf::default()));
    let seats =
        [Role::Csi, Role::NodeAgent].map(|role| (role, Arc::new(Semaphore::new(CONNECTION_LIMIT))));
    let conversations = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let (connection, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection was lost before it began");
                // without this pause a lack of descriptors would spin
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                continue;
            }
        };
        let Some(role) = Role::of(peer, roles) else {
            tracing::warn!(
                pid = peer.pid,
                uid = peer.uid,
                "refused: neither csi nor node-agent"
            );
            continue;
        };
        let seat = seats.iter().find(|(of, _)| *of == role);
        let Some(seat) = seat.and_then(|(_, s)| Arc::clone(s).try_acquire_owned().ok()) else {
            tracing::warn!(pid = peer.pid, ?role, "refused: too many connections");
            continue;
        };
        let (shelf, stop) = (Arc::clone(&shelf), stop.clone());
        conversations.spawn(async move {
            let _seat = seat;
            tokio::select! {
                ended = converse(&connection, role, &shelf) => {
                    if let Err(error) = ended {
                        tracing::warn!(pid = peer.pid, ?role, %error, "conversation broken off");
                    }
                }
                () = stop.cancelled() => {}
            }
        });
    }
}

async fn converse(
    connection: &Connection,
    role: Role,
    shelf: &Mutex<Shelf>,
) -> Result<(), ChannelError> {
    while let Some((request, fds)) = connection.receive::<KeeperRequest>().await? {
        let (reply, descriptor) = shelf
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .answer(role, request, fds);
        let descriptors: Vec<_> = descriptor.iter().map(|fd| fd.as_fd()).collect();
        connection.send(&reply, &descriptors).await?;
    }
    Ok(())
}
