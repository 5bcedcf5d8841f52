//! The keeper's socket.

use std::{os::fd::AsFd, path::Path, sync::Arc};

use tokio::{
    sync::{Mutex, Semaphore},
    time::timeout,
};
use vsecm_node_agent_api::{
    channel::{ChannelError, Connection, Listener},
    client::{AskError, FIRST_PAUSE, PATIENCE, chain},
    frame::{KeeperReply, KeeperRequest, RawRecord, Role},
    peer::PeerRule,
};

use super::{Args, Shelf};

/// Connections of one peer at most: a peer gone wild takes neither memory nor the other's place.
const CONNECTION_LIMIT: usize = 64;

/// Serves for ever.
pub async fn serve(listener: Listener, args: &Args) {
    let shelf = Arc::new(Mutex::new(Shelf::default()));
    let own = PeerRule::Uid(rustix::process::geteuid().as_raw());
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
            if !own.admits(peer) {
                let (pid, uid) = (peer.pid, peer.uid);
                tracing::warn!(pid, uid, "refused: neither csi nor node-agent");
            }
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

/// Asks the keeper at `socket`, which runs as this user, for a sign of life: it hangs up, having
/// nothing to say to a process of its own, or nothing to answer.
pub async fn probe(socket: &Path) -> Result<(), AskError> {
    let own = PeerRule::Uid(rustix::process::geteuid().as_raw());
    let answer = async {
        let keeper = Connection::dial(socket, &own).await?;
        keeper.finish()?;
        keeper.closed().await;
        Ok(())
    };
    let answered = timeout(PATIENCE, answer).await.map_err(|_late| AskError::Late("the keeper"))?;
    answered.map_err(|error| AskError::Away("the keeper", error))
}

async fn converse(
    connection: &Connection,
    role: Role,
    shelf: &Mutex<Shelf>,
) -> Result<(), ChannelError> {
    loop {
        let (reply, fd) = match connection.receive::<KeeperRequest<RawRecord>>().await {
            Ok(Some((request, fds))) => shelf.lock().await.answer(role, request, fds),
            Ok(None) => return Ok(()),
            // a peer of another version: what it asks is not done, and all else goes on
            Err(error @ ChannelError::Version { .. }) => {
                tracing::warn!(?role, error = chain(&error), "refused");
                (KeeperReply::Refused { reason: error.to_string() }, None)
            }
            Err(error) => return Err(error),
        };
        let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
        connection.send(&reply, &fds).await?;
    }
}

#[cfg(test)]
mod tests {
    use vsecm_node_agent_api::channel::Listener;

    use super::*;

    #[tokio::test]
    async fn a_probe_hears_whether_the_keeper_answers() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("keeper");
        assert!(matches!(probe(&socket).await, Err(AskError::Away(..))));
        for csi_peer in
            [PeerRule::Uid(u32::MAX), PeerRule::Uid(rustix::process::geteuid().as_raw())]
        {
            let node_agent_peer = PeerRule::Uid(u32::MAX);
            let args = Args { socket: socket.clone(), csi_peer, node_agent_peer };
            let listener = Listener::bind(&socket).unwrap();
            let serving = tokio::spawn(async move { serve(listener, &args).await });
            probe(&socket).await.unwrap();
            serving.abort();
        }
    }
}
