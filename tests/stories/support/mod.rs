//! What several stories need beside the harness.

pub(crate) mod atomic_writer;
pub(crate) mod attacker;
pub(crate) mod delivered;
pub(crate) mod hostile;
pub(crate) mod impostor;
pub(crate) mod mapping;
pub(crate) mod operator;
pub(crate) mod reading;
pub(crate) mod sanity;
pub(crate) mod subpath;
pub(crate) mod workload;
