//! What several stories need beside the harness.

pub(crate) mod attacker;
pub(crate) mod hostile;
pub(crate) mod impostor;
pub(crate) mod operator;
pub(crate) mod reading;
pub(crate) mod workload;
