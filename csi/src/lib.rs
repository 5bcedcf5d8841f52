//! The kubelet's door: no secret byte passes through these processes ([I9]).
//!
//! ```text
//!  kubelet ──NodePublishVolume──▶ node ──publish──▶ VolumeRecord
//!                                  │                    │
//!                                  ▼                    ▼
//!                               volumes ──▶ agent   (Attach, Serve, Resume, Detach, State)
//!                                  │  └───▶ mount   (fsopen … move_mount, private clone)
//!                                  └──────▶ deposit (what csi holds, kept by the keeper too)
//!  node-agent ──Order──▶ duty ──▶ swap (on the private clone)
//! ```
//!
//! csi is privileged and trusts nobody: requests are parsed by [`publish`], paths are resolved
//! without symlinks below the kubelet's folder ([`mount`]), and in a tree that another process
//! serves only names of a strict pattern are touched ([`swap`]).
//!
//! - [`publish`], [`target`]: pure parsers of what the kubelet says;
//! - [`volumes`]: the life of a volume, one task per volume and errand ([`flight`]);
//! - [`agent`], [`deposit`]: the two peers; [`duty`], [`reconcile`]: what is done when they come back;
//! - [`node`], [`plugin`]: the gRPC services, [`serve`]d; [`status`]: errors in the kubelet's words;
//! - [`keeper`]: the other binary, which holds descriptors and nothing else.

pub mod agent;
pub mod app;
pub mod args;
pub mod deposit;
pub mod duty;
pub mod flight;
pub mod keeper;
pub mod mount;
pub mod node;
pub mod plugin;
pub mod proto;
pub mod publish;
pub mod reconcile;
pub mod serve;
pub mod status;
pub mod swap;
pub mod table;
pub mod target;
pub mod volumes;
