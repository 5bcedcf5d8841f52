//! What the chart renders; each module holds one topic. `.ci/chart.sh` runs them, with Helm on the path.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod containers;
mod custody;
mod identities;
mod monitoring;
mod network;
mod node;
mod objects;
mod openshift;
mod readme;
mod rights;
mod spire;
mod support;
mod uninstall;
mod values;
