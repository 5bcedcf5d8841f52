//! The kubelet's door.

pub mod proto;
