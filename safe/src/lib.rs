//! Custody: the one place where secrets rest.
//!
//! ```text
//! sentinel --Put--> grpc -> custodian -> seal -> store      persist, then publish, then
//!                              |                            acknowledge [I1]
//!                              v
//! node-agent <--Watch-- grpc <- feed                        one encoded frame for all watchers
//! ```
//!
//! - [`entry`]: one key's versions, and which is served when; [`vault`]: all keys; pure.
//! - [`policy`]: who may do what; pure.
//! - [`custodian`]: the task that owns vault, store and seal.
//! - [`feed`]: what is published now, and who watches it. [`deliveries`]: who has what, and who waits.
//! - [`seal`]: records under the root key. [`store`]: where they rest. [`recovery`]: from there
//!   back into the vault, at start.
//! - [`root_key`]: the root key's Kubernetes Secret. `api_server`: why it is not answered for.
//! - [`own_identity`]: Safe's own SVID, and why it does not come. [`readiness`] and [`metrics`]:
//!   what the probes say.
//! - [`identity`]: mutual TLS with SVIDs from SPIRE; [`places`]: no peer takes all. [`admin_proof`]: sentinel's second proof.
//! - [`grpc`]: the contract's services. [`audit`]: one line per decision.
//! - [`args`] and [`app`]: from flags to a running process.
//!
//! What it withstands: whoever reads or writes the data folder without the root key can neither
//! read nor forge a record (but can delete, or put back an older one); whoever has another
//! workload's SVID, node-agent's or none gets nothing; who takes sentinel's SVID alone cannot
//! administer; and no RPC gives a value back to sentinel. What it does not: the holder of the root
//! key, root on Safe's machine, and a rollback of the whole folder.

pub mod admin_proof;
mod api_server;
pub mod app;
pub mod args;
pub mod audit;
pub mod custodian;
pub mod deliveries;
pub mod entry;
pub mod feed;
pub mod grpc;
pub mod identity;
pub mod metrics;
pub mod own_identity;
pub mod places;
pub mod policy;
pub mod readiness;
pub mod recovery;
pub mod root_key;
pub mod seal;
pub mod store;
pub mod vault;
