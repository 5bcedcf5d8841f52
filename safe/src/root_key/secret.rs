//! The root key's Secret, by the Kubernetes API.
//!
//! Safe may create Secrets in its namespace, and get and update this one; it needs nothing more.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::time::timeout;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    api_server::Failure,
    seal::{ITEM, Place, RootKey},
};

/// The API server answers in milliseconds, or something is wrong that a sentence should name.
const TIMEOUT: Duration = Duration::from_secs(10);
/// For whoever finds the Secret and wonders.
const ABOUT: &str = "The root key of VSecM Safe: every secret is sealed under it. Safe made it and \
                     never makes it again beside records. Back it up; without it nothing opens.";

/// Why the Secret could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// RBAC.
    #[error(
        "the API server forbids Safe to {verb} {place}: {reason} (its Role needs create on \
         secrets, and get and update on this one)"
    )]
    Forbidden {
        /// What Safe tried.
        verb: &'static str,
        /// Which Secret.
        place: Place,
        /// What the API server said.
        reason: String,
    },
    /// The API server refuses it for another reason.
    #[error("the API server does not {verb} {place}: {reason}")]
    Refused {
        /// What Safe tried.
        verb: &'static str,
        /// Which Secret.
        place: Place,
        /// What the API server said.
        reason: String,
    },
    /// No answer.
    #[error("the API server cannot be reached to {verb} {place}: {reason}")]
    Unreachable {
        /// What Safe tried.
        verb: &'static str,
        /// Which Secret.
        place: Place,
        /// Why.
        reason: String,
    },
    /// The item is no text.
    #[error("the {0} is not a root key: it is not text")]
    NotText(Place),
}

/// Whether a write was done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    Done,
    /// Someone else was first: what is there now counts.
    Overtaken,
}

/// The Secret of this name.
#[derive(Clone)]
pub struct KeySecret {
    secrets: Api<Secret>,
    namespace: String,
    name: String,
}

impl std::fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("KeySecret").field(&self.place()).finish()
    }
}

impl KeySecret {
    /// In this namespace; without one, in the client's own.
    pub fn new(client: Client, namespace: Option<String>, name: String) -> Self {
        let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
        Self { secrets: Api::namespaced(client, &namespace), namespace, name }
    }

    /// Where the key rests.
    pub fn place(&self) -> Place {
        Place::Secret { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    pub(super) async fn get(&self) -> Result<Stored, SecretError> {
        let got = timeout(TIMEOUT, self.secrets.get_opt(&self.name)).await;
        match got.map_err(|_elapsed| self.silent("read"))? {
            Ok(secret) => Ok(Stored(secret)),
            Err(error) => Err(self.failure("read", &error)),
        }
    }

    pub(super) async fn create(&self, key: &RootKey) -> Result<Written, SecretError> {
        let labels = [
            ("app.kubernetes.io/name", "vsecm-safe"),
            ("app.kubernetes.io/part-of", "vsecm"),
            ("app.kubernetes.io/managed-by", "vsecm-safe"),
        ];
        let annotations = [
            ("vsecm.com/about", ABOUT.to_owned()),
            ("vsecm.com/root-key-fingerprint", key.fingerprint().to_string()),
        ];
        let mut secret = Secret {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                labels: Some(owned(labels)),
                annotations: Some(owned(annotations)),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            data: Some(BTreeMap::from([(ITEM.to_owned(), bytes(key))])),
            ..Secret::default()
        };
        let how = by_safe();
        let created = timeout(TIMEOUT, self.secrets.create(&how, &secret)).await;
        wipe(&mut secret);
        self.written("create", created)
    }

    /// Puts the key into a Secret that has none. Its version goes along: what another Safe has put
    /// there meanwhile stays.
    pub(super) async fn fill(&self, stored: Stored, key: &RootKey) -> Result<Written, SecretError> {
        let Some(secret) = &stored.0 else { return Ok(Written::Overtaken) };
        let mut filled = secret.clone();
        filled.data.get_or_insert_default().insert(ITEM.to_owned(), bytes(key));
        let how = by_safe();
        let replaced = timeout(TIMEOUT, self.secrets.replace(&self.name, &how, &filled)).await;
        wipe(&mut filled);
        self.written("update", replaced)
    }

    fn written(
        &self,
        verb: &'static str,
        answer: Result<kube::Result<Secret>, tokio::time::error::Elapsed>,
    ) -> Result<Written, SecretError> {
        match answer.map_err(|_elapsed| self.silent(verb))? {
            Ok(mut secret) => {
                wipe(&mut secret);
                Ok(Written::Done)
            }
            // 409 is both "already exists" and "another version"; 404 is a Secret deleted meanwhile
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                Ok(Written::Overtaken)
            }
            Err(error) => Err(self.failure(verb, &error)),
        }
    }

    fn failure(&self, verb: &'static str, error: &kube::Error) -> SecretError {
        let place = self.place();
        match Failure::from(error) {
            Failure::Forbidden(reason) => SecretError::Forbidden { verb, place, reason },
            Failure::Refused(reason) => SecretError::Refused { verb, place, reason },
            Failure::Unreachable(reason) => SecretError::Unreachable { verb, place, reason },
        }
    }

    fn silent(&self, verb: &'static str) -> SecretError {
        let reason = format!("no answer within {TIMEOUT:?}");
        SecretError::Unreachable { verb, place: self.place(), reason }
    }
}

/// The object says who wrote it.
fn by_safe() -> PostParams {
    PostParams { field_manager: Some("vsecm-safe".to_owned()), ..PostParams::default() }
}

fn owned<V: Into<String>, const N: usize>(of: [(&str, V); N]) -> BTreeMap<String, String> {
    of.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect()
}

fn bytes(key: &RootKey) -> ByteString {
    ByteString(key.serialize().as_bytes().to_vec())
}

/// The Secret as the API server has it; its bytes are wiped when it is dropped.
pub(super) struct Stored(Option<Secret>);

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stored")
    }
}

impl Stored {
    /// The item's text; `None` where there is no Secret. A Secret without the item is blank.
    pub(super) fn text(&self, place: &Place) -> Result<Option<Zeroizing<String>>, SecretError> {
        let Some(secret) = &self.0 else { return Ok(None) };
        let item = secret.data.as_ref().and_then(|data| data.get(ITEM));
        let item = item.map_or(&[][..], |ByteString(bytes)| bytes);
        let text = std::str::from_utf8(item).map_err(|_not| SecretError::NotText(place.clone()))?;
        Ok(Some(Zeroizing::new(text.to_owned())))
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(wipe);
    }
}

/// `ByteString` does not wipe itself. (The copies in the HTTP client's buffers are out of reach;
/// core dumps and other processes cannot read them, see `process::harden`.)
fn wipe(secret: &mut Secret) {
    for ByteString(bytes) in secret.data.iter_mut().flat_map(BTreeMap::values_mut) {
        bytes.zeroize();
    }
}
