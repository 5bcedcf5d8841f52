//! The system on one machine without Kubernetes: what the playground, the demo and the stories
//! are made of.
//!
//! ```text
//!   Playground ── authority (in this process): Workload API, Delegated Identity API
//!       │     ├── kubelet   (in this process): a CSI client with the kubelet's requests
//!       │     └── keeper, safe, node-agent, csi: a process each, with a user of its own
//!       ├── up, pod, shell, demo   (the program vsecm-playground)
//!       ├── chaos                  (the program vsecm-chaos)
//!       └── story::start           (the tests)
//! ```

pub mod app;
pub mod authority;
pub mod awaiting;
pub mod bench;
pub mod binaries;
pub mod chaos;
pub mod component;
mod control;
mod demo;
pub mod dial;
pub mod fuse;
pub mod kubelet;
pub mod layout;
pub mod mounts;
pub mod namespace;
mod playground;
mod process;
pub mod proto;
mod shell;
pub mod story;
pub mod users;
pub mod watching;

pub use self::{
    component::{Component, Options},
    kubelet::{Pod, spec::PodSpec},
    playground::{AtOnce, CliOutput, Playground, PlaygroundError},
    process::ProcessError,
};
