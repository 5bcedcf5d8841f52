//! The kubelet's door: no secret byte passes through these processes ([I9]).
//!
//! ```text
//!  kubelet ──NodePublishVolume──▶ node ──publish──▶ VolumeRecord
//!                                  ▼
//!                               volumes ──▶ node-agent  (Attach, Serve, Resume, Detach, State)
//!                                  │  └───▶ mount       (fsopen … move_mount, private clone)
//!                                  └──────▶ keeper      (what csi holds, held there too)
//!  node-agent ──Order──▶ duty ──▶ swap  (on the private clone)
//! ```
//!
//! csi is privileged and trusts nobody: requests are parsed by [`publish`]
//! (with [`operator`]'s rules), paths are resolved
//! without symlinks below the kubelet's folder ([`mount`]), and in a tree that another process
//! serves only names of a strict pattern are touched ([`swap`]). `volumes` is the life of a volume,
//! `duty` what is done whenever a peer comes back, [`keeper`] the other binary,
//! [`health`] what probes hear, [`listing`] the table for people.

pub mod app;
pub mod args;
mod duty;
pub mod health;
pub mod keeper;
pub mod listing;
pub mod mount;
mod node;
pub mod operator;
pub mod plugin;
pub mod proto;
pub mod publish;
pub mod swap;
mod volumes;
