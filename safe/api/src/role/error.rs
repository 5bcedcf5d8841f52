//! Why a pattern is refused.

/// Why a pattern is refused. Each names the variable that it came from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// It is no regular expression.
    #[error("{variable} is not a regular expression")]
    Syntax {
        /// The variable.
        variable: &'static str,
        /// What is wrong with it.
        #[source]
        source: Box<regex::Error>,
    },
    /// The name pattern must pin the trust domain.
    #[error("{variable} must start with ^spiffe://{trust_domain}/")]
    TrustDomain {
        /// The variable.
        variable: &'static str,
        /// The configured trust domain.
        trust_domain: String,
    },
    /// The name pattern has no group that yields the name.
    #[error("{variable} needs a group, such as ([^/]+), that yields the workload's name")]
    Name {
        /// The variable.
        variable: &'static str,
    },
    /// The name pattern does not say which part is the namespace.
    #[error(
        "{variable} must say which part is the namespace: \
         a group (?P<namespace>[^/]+), or exactly one /ns/ with one segment after it; it has {found}"
    )]
    Namespace {
        /// The variable.
        variable: &'static str,
        /// How many `/ns/` were found.
        found: usize,
    },
    /// Pods of other service accounts could have the role.
    #[error(
        "{variable} must fix namespace and service account, without wildcards, as in \
         ^spiffe://{trust_domain}/workload/NAME/ns/NAMESPACE/sa/ACCOUNT/n/[^/]+$ : \
         else pods of other service accounts could have this role"
    )]
    Account {
        /// The variable.
        variable: &'static str,
        /// The configured trust domain.
        trust_domain: String,
    },
    /// Others could have the role.
    #[error(
        "{variable} must be one SPIFFE ID, as in ^spiffe://{trust_domain}/vsecm-node-agent$ , or fix \
         namespace and service account: else others could have this role"
    )]
    One {
        /// The variable.
        variable: &'static str,
        /// The configured trust domain.
        trust_domain: String,
    },
}
