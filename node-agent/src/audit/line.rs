//! The audit line of an open, on the tracing target `audit`. Never a value ([I7]).
//!
//! What Safe's lines have is called the same here: `correlation_id`, `actor`, `action`, `secret`,
//! `revision`, `outcome`. So one query finds who stored a version and who read it.

use std::time::SystemTime;

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use vsecm_node_agent_api::volume::PodRef;
use vsecm_safe_api::{name::SecretKey, position::Revision};

use super::reader::Reader;

/// The volume that lines are about.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Follows a volume through the lines of node-agent and Safe.
    pub correlation_id: String,
    /// The volume.
    pub volume: String,
    /// Its pod.
    pub pod: PodRef,
    /// The node.
    pub node: String,
}

/// What was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Whose secret; `None` if the volume shows none.
    pub secret: Option<SecretKey>,
    /// Which version.
    pub revision: Option<Revision>,
    /// The file's path in the volume; `None` if the kernel asked for one that is forgotten.
    pub file: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of an open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It can be read.
    Opened,
    /// It is not there any more.
    Stale,
    /// It was to be written.
    ReadOnly,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Stale => "refused: stale",
            Self::ReadOnly => "refused: read-only",
        }
    }
}

/// One open.
#[derive(Debug)]
pub struct Open<'a> {
    /// The volume.
    pub subject: &'a Subject,
    /// The pod's SPIFFE ID; empty while a new process has not learnt it.
    pub actor: &'a str,
    /// When.
    pub at: SystemTime,
    /// Who.
    pub reader: &'a Reader,
    /// What.
    pub opened: &'a Opened,
}

impl Open<'_> {
    /// Writes it.
    pub fn write(&self) {
        let Self { subject, actor, at, reader, opened } = self;
        let opened_at = OffsetDateTime::from(*at).format(&Rfc3339).unwrap_or_default();
        tracing::info!(
            target: "audit",
            correlation_id = subject.correlation_id,
            actor,
            action = "open",
            secret = opened.secret.as_ref().map(display),
            revision = opened.revision.map(|revision| revision.0),
            outcome = opened.outcome.word(),
            opened_at,
            file = opened.file,
            reader = reader.place.word(),
            pid = reader.pid,
            uid = reader.uid,
            gid = reader.gid,
            command = reader.command,
            container = reader.place.container(),
            reader_pod_uid = reader.place.other_pod(),
            namespace = %subject.pod.namespace,
            pod = %subject.pod.name,
            pod_uid = %subject.pod.uid,
            volume = subject.volume,
            node = subject.node,
        );
    }
}

/// Says that opens of a volume have no line.
pub fn write_lost(subject: &Subject, count: u64) {
    tracing::warn!(
        target: "audit",
        correlation_id = subject.correlation_id,
        action = "open",
        outcome = "dropped",
        dropped = count,
        context = "so many opens have no line: more came than could be written",
        namespace = %subject.pod.namespace,
        pod = %subject.pod.name,
        pod_uid = %subject.pod.uid,
        volume = subject.volume,
        node = subject.node,
    );
}
