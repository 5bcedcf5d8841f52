//! Brings the secrets of a node's pods from Safe to their files.
//!
//! ```text
//!   SPIRE --identity--.                        keeper (descriptors, sealed content)
//!                     v                           ^ v
//!   Safe ---watch--> Watch --Snapshot--> Owner --Tree--> Mirror <--kernel--> pod
//!                                          |                ^
//!                                          `--Order--> csi -' (symlink, rename, unlink)
//! ```
//!
//! This process holds secrets and no privilege ([I9]): csi opens `/dev/fuse` and mounts, the keeper
//! holds what must outlive both. Readers are answered from memory ([I5]); killed with -9, a
//! successor goes on with the same descriptors and the same content ([I6]).
//!
//! - pure: [`json`], [`yaml`], [`member`], [`inode`], [`tree`], [`mirror`], [`wait`];
//! - content: [`snapshot`], [`memfd`], [`mapping`], [`watch`], [`tls`], [`identity`], [`report`];
//! - the kernel: [`view`], [`filesystem`], [`session`], [`audit`];
//! - volumes: [`volumes`], [`control`], [`duty`], [`keeper`];
//! - Kubernetes: [`kubernetes`], [`health`], [`peers`], [`metrics`], [`probe`], [`prepare`];
//! - the process: [`args`], [`app`], [`supervisor`], [`privileges`], [`backoff`].

pub mod app;
pub mod args;
pub mod audit;
pub mod backoff;
pub mod control;
pub mod duty;
pub mod filesystem;
pub mod health;
pub mod identity;
pub mod inode;
pub mod json;
pub mod keeper;
pub mod kernel;
pub mod kubernetes;
pub mod mapping;
pub mod member;
pub mod memfd;
pub mod metrics;
pub mod mirror;
pub mod peers;
pub mod prepare;
pub mod privileges;
pub mod probe;
pub mod report;
pub mod session;
pub mod snapshot;
pub mod supervisor;
pub mod tls;
pub mod tree;
pub mod view;
pub mod volumes;
pub mod wait;
pub mod watch;
pub mod yaml;
