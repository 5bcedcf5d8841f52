//! The system on one machine without Kubernetes: what the playground, the demo and the stories
//! are made of.

pub mod authority;
mod dial;
mod proto;
