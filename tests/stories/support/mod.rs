//! What several stories need beside the harness.

pub mod attacker;
pub mod impostor;
pub mod hostile;
