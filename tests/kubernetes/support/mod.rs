//! What the stories are told with.

pub(crate) mod artefacts;
#[path = "../../stories/support/attacker.rs"]
#[expect(dead_code, reason = "the stories without Kubernetes use the rest")]
pub(crate) mod attacker;
pub(crate) mod awaiting;
pub(crate) mod complaint;
pub(crate) mod container;
pub(crate) mod created;
pub(crate) mod driver;
pub(crate) mod helm;
pub(crate) mod identity;
pub(crate) mod installation;
pub(crate) mod kubectl;
pub(crate) mod metrics;
pub(crate) mod node;
pub(crate) mod outage;
pub(crate) mod part;
pub(crate) mod pod;
pub(crate) mod program;
pub(crate) mod reader;
pub(crate) mod search;
pub(crate) mod secret;
pub(crate) mod story;
pub(crate) mod taken;
pub(crate) mod volumes;
