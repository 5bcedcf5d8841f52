//! What csi, node-agent and keeper say to each other.
//!
//! ```text
//!   csi ──(Attach, Serve, Detach, Duty)──▶ node-agent ──(content)──▶ keeper
//!    └──────────────(volumes and their descriptors)──────────────────▲
//! ```
//!
//! Every conversation is a sequence of small JSON frames on a `SOCK_SEQPACKET` socket, each frame
//! with the descriptors that belong to it (`SCM_RIGHTS`). Both ends check who the other is by
//! `SO_PEERCRED` before the first frame ([I9]). No frame ever holds a secret: content travels only
//! as a sealed memfd between node-agent and keeper ([I7]).
//!
//! - [`volume`]: the nouns, parsed once;
//! - [`attributes`], [`items`], [`target`]: the same, from what the kubelet says;
//! - [`frame`]: requests and replies of the three conversations;
//! - [`listing`]: the volumes of a node in few words;
//! - [`peer`]: who may talk;
//! - [`channel`]: frames and descriptors on a socket;
//! - [`kernel`]: what this kernel offers;
//! - [`client`]: typed, bounded questions to node-agent and keeper;
//! - [`turn`]: which of the node's pods serves;
//! - [`process`]: what each of these processes does first.

pub mod attributes;
pub mod channel;
pub mod client;
pub mod frame;
pub mod items;
pub mod kernel;
pub mod listing;
pub mod peer;
pub mod process;
pub mod target;
pub mod turn;
pub mod volume;
