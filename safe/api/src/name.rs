//! The key of a secret: (namespace, name).

use std::{fmt, str::FromStr};

/// Why a text is not a name of a secret or of a namespace.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameError {
    /// A namespace is a DNS label (RFC 1123), as Kubernetes has it.
    #[error(
        "namespace {0:?} is not a DNS label: 1 to 63 lower-case letters, digits and '-', \
         starting and ending with a letter or digit"
    )]
    Namespace(String),
    /// A secret's name has a rule of its own.
    #[error(
        "name {0:?} is not allowed: an optional prefix k8s: or raw:, then 1 to 253 letters, \
         digits, '.', '_' and '-', and neither '.' nor '..'"
    )]
    Secret(String),
    /// A pod is named as Kubernetes has it.
    #[error(
        "pod {0:?} is not a DNS name: 1 to 253 lower-case letters, digits, '-' and '.', starting \
         and ending with a letter or digit"
    )]
    Pod(String),
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A Kubernetes namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(String);

impl Namespace {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Namespace {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_label = (1..=63).contains(&text.len())
            && text.bytes().all(inner)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if !is_label {
            return Err(NameError::Namespace(shortened(text)));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodName(String);

impl PodName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PodName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let outer = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let is_name = (1..=253).contains(&text.len())
            && text.bytes().all(|b| outer(&b) || matches!(b, b'-' | b'.'))
            && [text.as_bytes().first(), text.as_bytes().last()].into_iter().flatten().all(outer);
        if !is_name {
            return Err(NameError::Pod(shortened(text)));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whom a secret is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Audience {
    /// The workload of the same name (no prefix).
    Workload,
    /// A Kubernetes Secret (prefix `k8s:`); it reaches no workload.
    Kubernetes,
    /// Nobody (prefix `raw:`): stored, listed and exported only.
    Raw,
}

/// The name of a secret, with its prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName(String);

impl SecretName {
    /// The text, prefix included.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whom the secret is for, by its prefix.
    pub fn audience(&self) -> Audience {
        split(&self.0).0
    }
}

fn split(text: &str) -> (Audience, &str) {
    if let Some(rest) = text.strip_prefix("k8s:") {
        (Audience::Kubernetes, rest)
    } else if let Some(rest) = text.strip_prefix("raw:") {
        (Audience::Raw, rest)
    } else {
        (Audience::Workload, text)
    }
}

impl FromStr for SecretName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (_, word) = split(text);
        let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let is_allowed = (1..=253).contains(&word.len())
            && word.bytes().all(inner)
            && word != "."
            && word != "..";
        if !is_allowed {
            return Err(NameError::Secret(shortened(text)));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a secret is stored and asked for under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretKey {
    /// The namespace.
    pub namespace: Namespace,
    /// The name.
    pub name: SecretName,
}

impl SecretKey {
    /// Parses both parts.
    ///
    /// # Errors
    /// Names the part that is not allowed.
    pub fn parse(namespace: &str, name: &str) -> Result<Self, NameError> {
        Ok(Self { namespace: namespace.parse()?, name: name.parse()? })
    }
}

impl fmt::Display for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_has_an_optional_prefix_and_1_to_253_plain_characters() {
        for good in ["a", "A.b_c-9", "k8s:db", "raw:x", &"x".repeat(253)] {
            assert!(good.parse::<SecretName>().is_ok(), "{good:?}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "k8s:", "raw:..", "k8s:raw:a", "x:y", "a,b"] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(254).parse::<SecretName>().is_err());
    }

    #[test]
    fn a_prefix_says_whom_the_secret_is_for() {
        let audience = |text: &str| text.parse::<SecretName>().unwrap().audience();
        assert_eq!(audience("db"), Audience::Workload);
        assert_eq!(audience("k8s:db"), Audience::Kubernetes);
        assert_eq!(audience("raw:db"), Audience::Raw);
    }

    #[test]
    fn a_namespace_is_a_dns_label() {
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", &"x".repeat(64)] {
            assert!(bad.parse::<Namespace>().is_err(), "{bad:?}");
        }
        assert!("kube-system".parse::<Namespace>().is_ok());
    }

    #[test]
    fn a_pod_has_a_dns_name() {
        for good in ["db-0", "a", "web.1", &"x".repeat(253)] {
            assert!(good.parse::<PodName>().is_ok(), "{good:?}");
        }
        for bad in ["", "-a", "a.", "A", "a_b", "a/b", &"x".repeat(254)] {
            assert!(bad.parse::<PodName>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_name_is_never_a_path(text in "\\PC{0,300}") {
            if let Ok(name) = text.parse::<SecretName>() {
                prop_assert!(!name.as_str().contains('/'));
                prop_assert_eq!(name.as_str(), text);
            }
        }
    }
}
