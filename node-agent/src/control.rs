//! The socket on which csi asks, and takes orders.

use std::{os::fd::OwnedFd, path::Path, sync::Arc, time::Duration};

use tokio::time::timeout;
use tracing::{debug, info, warn};
use vsecm_node_agent_api::{
    channel::{ChannelError, Connection, Listener},
    frame::{AgentReply, AgentRequest},
    peer::PeerRule,
};

use crate::{
    duty::Duty,
    peers::{Peer, Peers},
    volumes::Volumes,
};

/// A connection that says nothing is closed.
const REQUEST_WAIT: Duration = Duration::from_secs(10);

/// The longest hold: the kubelet gives an RPC two minutes.
const LONGEST_HOLD: Duration = Duration::from_mins(2);

/// Serves csi, and nobody else.
#[derive(Debug)]
pub struct Control {
    listener: Listener,
    csi: PeerRule,
    volumes: Arc<Volumes>,
    duty: Arc<Duty>,
    peers: Peers,
}

impl Control {
    /// Listens at `path`.
    ///
    /// # Errors
    /// [`ChannelError::Open`].
    pub fn bind(
        path: &Path,
        csi: PeerRule,
        volumes: Arc<Volumes>,
        duty: Arc<Duty>,
        peers: Peers,
    ) -> Result<Self, ChannelError> {
        let listener = Listener::bind(path)?;
        info!(socket = %path.display(), "ready");
        Ok(Self { listener, csi, volumes, duty, peers })
    }

    /// Serves until the process ends.
    pub async fn run(self) {
        let (volumes, duty, peers) = (self.volumes, self.duty, self.peers);
        loop {
            match self.listener.accept().await {
                Ok((connection, peer)) if self.csi.admits(peer) => {
                    let (volumes, duty) = (Arc::clone(&volumes), Arc::clone(&duty));
                    let csi = Csi { peers: peers.clone(), pid: peer.pid };
                    tokio::spawn(async move {
                        if let Err(error) = converse(&connection, &volumes, &duty, &csi).await {
                            debug!(%error, "a conversation with csi broke");
                        }
                    });
                }
                Ok((_connection, peer)) => {
                    warn!(peer.pid, peer.uid, "a process that is not csi was turned away");
                }
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

/// Who asks.
struct Csi {
    peers: Peers,
    pid: i32,
}

async fn converse(
    connection: &Connection,
    volumes: &Volumes,
    duty: &Duty,
    csi: &Csi,
) -> Result<(), ChannelError> {
    let Ok(received) = timeout(REQUEST_WAIT, connection.receive::<AgentRequest>()).await else {
        return Err(ChannelError::Closed);
    };
    let (request, mut descriptors) = match received {
        Ok(Some(received)) => received,
        Ok(None) => return Ok(()),
        // a csi of another version: it hears what is wrong, and asks something else
        Err(error @ ChannelError::Version { .. }) => {
            warn!(%error, "csi asked what this node agent does not know");
            let reason = error.to_string();
            return connection.send(&AgentReply::Refused { reason }, &[]).await;
        }
        Err(error) => return Err(error),
    };
    if matches!(request, AgentRequest::Duty) {
        connection.send(&AgentReply::Done, &[]).await?;
        let visit = csi.peers.visit(Peer::Csi, csi.pid);
        let served = duty.serve(connection).await;
        drop(visit);
        return served;
    }
    let reply = tokio::select! {
        reply = answer(request, descriptors.pop(), volumes) => reply,
        // nobody is there to hear the answer of a long hold
        () = connection.closed() => return Ok(()),
    };
    connection.send(&reply, &[]).await
}

async fn answer(
    request: AgentRequest,
    descriptor: Option<OwnedFd>,
    volumes: &Volumes,
) -> AgentReply {
    let no_descriptor = || AgentReply::Refused {
        reason: "the frame came without a descriptor of /dev/fuse".to_owned(),
    };
    match (request, descriptor) {
        (AgentRequest::Attach { record, hold_ms }, _) => {
            let hold = Duration::from_millis(hold_ms).min(LONGEST_HOLD);
            volumes.attach(record, hold).await
        }
        (AgentRequest::Serve { volume, inode_key }, Some(descriptor)) => {
            volumes.serve(&volume, inode_key, descriptor).await
        }
        (AgentRequest::Resume { record }, Some(descriptor)) => {
            volumes.resume(&record, descriptor).await
        }
        (AgentRequest::Serve { .. } | AgentRequest::Resume { .. }, None) => no_descriptor(),
        (AgentRequest::Detach { volume }, _) => {
            volumes.detach(&volume).await;
            AgentReply::Done
        }
        (AgentRequest::State { volume }, _) => volumes.state(&volume),
        (AgentRequest::Volumes { after }, _) => volumes.list(after.as_ref()),
        (AgentRequest::Duty, _) => AgentReply::Done,
    }
}
