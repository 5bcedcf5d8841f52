//! What a node agent reports, parsed at the door. All of it is a claim.

use std::collections::HashSet;

use time::OffsetDateTime;
use vsecm_safe_api::{
    name::{Namespace, PodName, SecretKey},
    proto,
    wire::{self, WireError},
};

/// Bytes of a node's name, or of a service account's.
const NAME_LIMIT: usize = 253;
/// Bytes of a reason in one word.
const REASON_LIMIT: usize = 64;
/// Bytes of a sentence.
const SENTENCE_LIMIT: usize = 1024;
/// What one pod costs beside its texts.
const POD_BYTES: usize = 256;

/// Why a report is not understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReportError {
    /// A field is not as the contract has it.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A text is too long, or has what does not belong in a log.
    #[error("{what} must be {rule}")]
    Text {
        /// Which.
        what: &'static str,
        /// What it must be.
        rule: String,
    },
}

/// A pod as its node agent sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name, with its namespace.
    pub name: (Namespace, PodName),
    /// Its service account.
    pub service_account: String,
    /// Whose secret it gets, if it has an identity.
    pub key: Option<SecretKey>,
    /// Whether its volume shows what Safe said.
    pub shows: bool,
    /// What it waits for.
    pub waiting: Option<Waiting>,
}

/// What a pod waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Since when.
    pub since: OffsetDateTime,
    /// In one word.
    pub reason: String,
    /// In a sentence.
    pub sentence: String,
}

impl Pod {
    /// Bytes that it costs to keep this.
    pub fn bytes(&self) -> usize {
        let Self { name: (namespace, name), service_account, key, shows: _, waiting } = self;
        let key = key.as_ref().map_or(0, |k| k.namespace.as_str().len() + k.name.as_str().len());
        let waiting = waiting.as_ref().map_or(0, |w| w.reason.len() + w.sentence.len());
        let name = namespace.as_str().len() + name.as_str().len();
        POD_BYTES + name + service_account.len() + key + waiting
    }
}

/// A name that a caller claims: plain characters, since it goes into logs.
///
/// # Errors
/// [`ReportError::Text`].
pub fn claimed(what: &'static str, text: &str) -> Result<(), ReportError> {
    if text.len() > NAME_LIMIT || !text.bytes().all(|b| b.is_ascii_graphic()) {
        let rule = format!("at most {NAME_LIMIT} plain characters");
        return Err(ReportError::Text { what, rule });
    }
    Ok(())
}

impl TryFrom<proto::PodReport> for Pod {
    type Error = ReportError;

    fn try_from(pod: proto::PodReport) -> Result<Self, ReportError> {
        let namespace: Namespace = pod.namespace.parse().map_err(WireError::from)?;
        let name: PodName = pod.name.parse().map_err(WireError::from)?;
        claimed("service_account", &pod.service_account)?;
        Ok(Self {
            name: (namespace, name),
            service_account: pod.service_account,
            key: pod.key.as_ref().map(SecretKey::try_from).transpose()?,
            shows: pod.shows,
            waiting: pod.waiting.map(Waiting::try_from).transpose()?,
        })
    }
}

impl TryFrom<proto::Waiting> for Waiting {
    type Error = ReportError;

    fn try_from(waiting: proto::Waiting) -> Result<Self, ReportError> {
        let proto::Waiting { since, reason, sentence } = waiting;
        let since = wire::time(since.as_ref().ok_or(WireError::Missing("since"))?)?;
        let is_word = |b: u8| b.is_ascii_lowercase() || b == b'_';
        if reason.is_empty() || reason.len() > REASON_LIMIT || !reason.bytes().all(is_word) {
            let rule = format!("1 to {REASON_LIMIT} lower-case letters and '_'");
            return Err(ReportError::Text { what: "reason", rule });
        }
        if sentence.len() > SENTENCE_LIMIT || sentence.chars().any(char::is_control) {
            let rule = format!("at most {SENTENCE_LIMIT} bytes without control characters");
            return Err(ReportError::Text { what: "sentence", rule });
        }
        Ok(Self { since, reason, sentence })
    }
}

/// What is kept of a whole report.
#[derive(Debug, Default)]
pub(super) struct Report {
    shows: HashSet<(Namespace, PodName)>,
    keys: HashSet<SecretKey>,
    pub(super) waiting: Vec<Pod>,
    pub(super) bytes: usize,
}

impl Report {
    pub(super) fn of(pods: Vec<Pod>) -> Self {
        let bytes = pods.iter().map(Pod::bytes).sum();
        let mut report = Self { bytes, ..Self::default() };
        for pod in pods {
            if pod.shows {
                report.shows.insert(pod.name.clone());
                report.keys.extend(pod.key.clone());
            }
            if pod.waiting.is_some() {
                report.waiting.push(pod);
            }
        }
        report
    }

    /// Whether this pod shows something; where its SPIFFE ID does not name it, any pod of the key.
    pub(super) fn lists(&self, key: &SecretKey, pod: Option<&PodName>) -> bool {
        match pod {
            Some(pod) => self.shows.contains(&(key.namespace.clone(), pod.clone())),
            None => self.keys.contains(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> proto::PodReport {
        proto::PodReport {
            namespace: "shop".into(),
            name: "db-0".into(),
            service_account: "db".into(),
            key: None,
            shows: false,
            waiting: Some(proto::Waiting {
                since: Some(prost_types::Timestamp::default()),
                reason: "no_entry".into(),
                sentence: "no SPIRE entry".into(),
            }),
        }
    }

    #[test]
    fn what_does_not_belong_in_a_report_is_refused_with_a_sentence() {
        assert!(Pod::try_from(good()).is_ok());
        let waiting = |change: fn(&mut proto::Waiting)| {
            let mut pod = good();
            change(pod.waiting.as_mut().unwrap());
            pod
        };
        let key = Some(proto::SecretKey { namespace: "shop".into(), name: "../db".into() });
        for bad in [
            proto::PodReport { namespace: "Shop".into(), ..good() },
            proto::PodReport { name: "db\n0".into(), ..good() },
            proto::PodReport { service_account: "d b".into(), ..good() },
            proto::PodReport { key, ..good() },
            waiting(|waiting| waiting.since = None),
            waiting(|waiting| waiting.reason = "No entry".into()),
            waiting(|waiting| waiting.reason = String::new()),
            waiting(|waiting| waiting.sentence = "a\u{1b}[31m".into()),
            waiting(|waiting| waiting.sentence = "x".repeat(SENTENCE_LIMIT + 1)),
        ] {
            let refusal = Pod::try_from(bad).unwrap_err().to_string();
            assert!(refusal.len() > 10, "{refusal}");
        }
    }
}
