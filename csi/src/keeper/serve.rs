//! The keeper's socket.

use std::{os::fd::AsFd, sync::Arc};

use tokio::sync::{Mutex, Semaphore};
use vsecm_node_agent_api::{
    channel::{ChannelError, Connection, Listener},
    client::{FIRST_PAUSE, chain},
    frame::{KeeperRequest, Role},
};

use super::{Args, Shelf};

/// Connections of one peer at most: a peer gone wild takes neither memory nor the other's place.
const CONNECTION_LIMIT: usize = 64;

/// Serves for ever.
pub async fn serve(listener: Listener, args: &Args) {
    let shelf = Arc::new(Mutex::new(Shelf::default()));
    let seats = [(Role::Csi, &args.csi_peer), (Role::NodeAgent, &args.node_agent_peer)]
        .map(|(role, rule)| (role, rule, Arc::new(Semaphore::new(CONNECTION_LIMIT))));
    loop {
        let (connection, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(error = chain(&error), "a connection was lost before it began");
                // without this pause a lack of descriptors would spin
                tokio::time::sleep(FIRST_PAUSE).await;
                continue;
            }
        };
        let Some((role, _, seats)) = seats.iter().find(|(_, rule, _)| rule.admits(peer)) else {
            tracing::warn!(pid = peer.pid, uid = peer.uid, "refused: neither csi nor node-agent");
            continue;
        };
        let Ok(seat) = Arc::clone(seats).try_acquire_owned() else {
            tracing::warn!(pid = peer.pid, ?role, "refused: too many connections");
            continue;
        };
        let (role, shelf) = (*role, Arc::clone(&shelf));
        tokio::spawn(async move {
            let _seat = seat;
            if let Err(error) = converse(&connection, role, &shelf).await {
                tracing::warn!(pid = peer.pid, ?role, error = chain(&error), "broken off");
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
        let (reply, fd) = shelf.lock().await.answer(role, request, fds);
        let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
        connection.send(&reply, &fds).await?;
    }
    Ok(())
}
