//! The keeper: holds records and descriptors for those who may be killed, and knows nothing of them.
//! It never reads a descriptor that it holds, so no secret byte is in it.

mod serve;
mod shelf;

use std::path::PathBuf;

use vsecm_node_agent_api::{
    frame::{Descriptor, KeeperRequest},
    peer::{Peer, PeerRule},
};

pub use serve::serve;
pub use shelf::{CONTENT_LIMIT, Shelf, VOLUME_LIMIT};

/// Flags of `vsecm-keeper`; each has an environment variable.
#[derive(Debug, clap::Parser)]
#[command(version, about = "Keeper of descriptors of the secret manager")]
pub struct Args {
    /// Socket to listen on
    #[arg(long, env = "VSECM_KEEPER_SOCKET")]
    pub socket: PathBuf,
    /// Who csi is: uid:NUMBER or exe:NAME
    #[arg(long, env = "VSECM_CSI_PEER")]
    pub csi_peer: PeerRule,
    /// Who node-agent is: uid:NUMBER or exe:NAME
    #[arg(long, env = "VSECM_NODE_AGENT_PEER")]
    pub node_agent_peer: PeerRule,
}

impl Args {
    /// Who plays which role.
    pub fn roles(&self) -> [(Role, PeerRule); 2] {
        [
            (Role::Csi, self.csi_peer.clone()),
            (Role::NodeAgent, self.node_agent_peer.clone()),
        ]
    }
}

/// Who a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything about volumes.
    Csi,
    /// The list of volumes, their `/dev/fuse`, and everything about content.
    NodeAgent,
}

impl Role {
    /// The role of a peer, if it has one.
    pub fn of(peer: Peer, roles: &[(Self, PeerRule)]) -> Option<Self> {
        let found = roles.iter().find(|(_, rule)| rule.admits(peer));
        found.map(|(role, _)| *role)
    }

    /// Whether the role may ask this.
    pub fn may(self, request: &KeeperRequest) -> bool {
        match request {
            KeeperRequest::PutVolume { .. } | KeeperRequest::RemoveVolume { .. } => {
                self == Self::Csi
            }
            KeeperRequest::ListVolumes { .. } => true,
            KeeperRequest::GetVolume { descriptor, .. } => {
                self == Self::Csi || *descriptor == Descriptor::Fuse
            }
            KeeperRequest::PutContent { .. }
            | KeeperRequest::ListContents { .. }
            | KeeperRequest::GetContent { .. }
            | KeeperRequest::RemoveContent { .. } => self == Self::NodeAgent,
        }
    }
}
