//! The keeper: holds records and descriptors for those who may be killed, and knows nothing of them.
//! It never reads a descriptor that it holds, so no secret byte is in it.

mod serve;
mod shelf;

use std::path::PathBuf;

use vsecm_node_agent_api::peer::PeerRule;

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
