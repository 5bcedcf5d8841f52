//! One line per decision, on the tracing target `audit`. Never a value.

use std::fmt;

use vsecm_safe_api::{metadata::CORRELATION_ID_LIMIT, name::SecretKey, position::Revision};

/// Follows one command of an operator, or one call of a workload, through logs and audit lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorrelationId(String);

impl CorrelationId {
    /// The caller's own, if it is plain enough for a log; else a random one.
    pub fn accept(text: Option<&[u8]>) -> Self {
        let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        text.filter(|text| (1..=CORRELATION_ID_LIMIT).contains(&text.len()))
            .filter(|text| text.iter().all(plain))
            .and_then(|text| String::from_utf8(text.to_vec()).ok())
            .map_or_else(Self::random, Self)
    }

    fn random() -> Self {
        let mut bytes = [0; 8];
        // without randomness the line is still worth having
        let _filled: Result<(), _> = getrandom::fill(&mut bytes);
        Self(hex::encode(bytes))
    }
}

impl fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One decision.
#[derive(Debug)]
pub struct Line<'a> {
    /// Which call.
    pub correlation_id: &'a CorrelationId,
    /// The caller's SPIFFE ID.
    pub actor: &'a str,
    /// What was asked for.
    pub action: &'static str,
    /// On which secret.
    pub secret: Option<&'a SecretKey>,
    /// Which write it made or showed.
    pub revision: Option<Revision>,
    /// What became of it.
    pub outcome: &'a str,
    /// More, such as the pod and node that an acknowledgement names.
    pub context: &'a str,
}

impl Line<'_> {
    /// Writes it.
    pub fn write(&self) {
        let Self { correlation_id, actor, action, secret, revision, outcome, context } = self;
        tracing::info!(
            target: "audit",
            %correlation_id,
            actor,
            action,
            secret = secret.map(tracing::field::display),
            revision = revision.map(|revision| revision.0),
            outcome,
            context = (!context.is_empty()).then_some(context),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_correlation_id_is_carried_and_any_other_replaced() {
        let accept = |text: &str| CorrelationId::accept(Some(text.as_bytes())).to_string();
        assert_eq!(accept("cli-7f.A_1"), "cli-7f.A_1");
        for bad in ["", "a b", "a\n{\"forged\":1}", &"x".repeat(65)] {
            let made = accept(bad);
            assert_ne!(made, bad);
            assert_eq!(made.len(), 16);
        }
        assert_eq!(CorrelationId::accept(None).to_string().len(), 16);
    }
}
