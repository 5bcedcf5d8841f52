//! Where the root key comes from on Kubernetes.
//!
//! The Secret is mounted, optionally: beside records, what the mount has counts. While it has none,
//! and at a first start always, the Secret itself is asked, and made where there are no records. Two
//! Safes that start together end with one key: whoever comes second to the API server takes the key
//! of the first, and the first key is used only after it was read back from there, so that it is
//! durable before the first record is.
//!
//! The mount is watched later on: another key there is reported and never followed.

mod decision;
mod mount;
mod secret;
#[cfg(test)]
mod tests;

use std::{path::Path, time::Duration};

use tokio::time::sleep;
use vsecm_safe_api::client::chain;

use self::{
    decision::{Content, Step, decide},
    secret::Written,
};
pub use self::{
    mount::follow_mount,
    secret::{KeySecret, SecretError},
};
use crate::{
    readiness::State,
    seal::{Place, RootKey, RootKeyError, StoredRecords, read_key_file},
};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The kubelet brings a mended Secret into the mount after a minute or so.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Key(#[from] RootKeyError),
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// Waits until there is a root key that fits to what is stored. What is missing or wrong is said,
/// and looked at again: an operator can mend it without a restart.
pub async fn obtain(
    mount: &Path,
    secret: &KeySecret,
    records: &StoredRecords,
    state: &State,
) -> RootKey {
    let mut pause = FIRST_PAUSE;
    loop {
        match attempt(mount, secret, records).await {
            Ok(Some(key)) => return key,
            // written, or overtaken: read what is there now
            Ok(None) => {}
            Err(error) => {
                state.not_ready(&format!("there is no root key: {}", chain(&error)));
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

async fn attempt(
    mount: &Path,
    secret: &KeySecret,
    records: &StoredRecords,
) -> Result<Option<RootKey>, Trouble> {
    let place = secret.place();
    let mounted = || -> Result<Content, RootKeyError> {
        let text = read_key_file(mount)?;
        Content::read(&Place::File(mount.to_owned()), text.as_ref().map(|text| text.as_str()))
    };
    if let Step::Use(key) = decide(mounted()?, None, &place, records)? {
        tracing::info!(file = %mount.display(), "the root key is mounted");
        return Ok(Some(key));
    }
    let stored = secret.get().await?;
    let text = stored.text(&place)?;
    let content = Content::read(&place, text.as_ref().map(|text| text.as_str()))?;
    match decide(mounted()?, Some(content), &place, records)? {
        Step::Use(key) => {
            tracing::info!(%place, "the root key is there");
            Ok(Some(key))
        }
        Step::AskSecret => Ok(None),
        Step::Create => {
            made(&place, &secret.create(&RootKey::generate()?).await?);
            Ok(None)
        }
        Step::Fill => {
            made(&place, &secret.fill(stored, &RootKey::generate()?).await?);
            Ok(None)
        }
    }
}

fn made(place: &Place, written: &Written) {
    match written {
        Written::Done => tracing::info!(%place, "a first start: made a root key; back it up"),
        Written::Overtaken => tracing::info!(%place, "someone else was first to make a root key"),
    }
}
