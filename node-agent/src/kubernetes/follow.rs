//! One object, followed by its name: a list, a watch from there on, and the same again.
//!
//! Both name the object in a field selector, so that a Role with `resourceNames` allows them.

use std::{fmt::Debug, pin::pin, time::Duration};

use futures_util::TryStreamExt as _;
use kube::{
    Api, Client, Resource,
    api::{ListParams, WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

use super::{KubernetesError, answer, client};
use crate::backoff::Backoff;

/// A watch ends by itself after this, and the object is listed anew.
const WATCH_SECONDS: u32 = 240;

/// Longer than a watch lasts: the connection is dead.
const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 10);

/// A watch that lasted this long was sound; one that did not, or was refused, is asked for ever
/// more rarely, also where the list before it was answered.
const SOUND: Duration = Duration::from_secs(30);

/// The answer when a watch begins at a version that is forgotten.
const GONE: u16 = 410;

/// What is known of the object.
#[derive(Debug)]
pub(super) enum Heard<K> {
    /// It is so.
    There(K),
    /// There is none.
    Missing,
    /// It cannot be asked for.
    Nothing(KubernetesError),
}

/// Follows the object `name`, for ever.
pub(super) async fn follow<K>(
    api: impl Fn(Client) -> Api<K>,
    name: &str,
    mut hear: impl FnMut(Heard<K>),
) where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    loop {
        let began = Instant::now();
        if let Err(broken) = once(&api, name, &mut hear).await {
            hear(Heard::Nothing(broken));
        }
        sleep(pause(&mut backoff, began.elapsed())).await;
    }
}

/// Until the next attempt, after one that lasted so long.
fn pause(backoff: &mut Backoff, lasted: Duration) -> Duration {
    if lasted >= SOUND {
        backoff.reset();
    }
    backoff.pause()
}

async fn once<K>(
    api: &impl Fn(Client) -> Api<K>,
    name: &str,
    hear: &mut impl FnMut(Heard<K>),
) -> Result<(), KubernetesError>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let api = api(client().await?);
    let named = format!("metadata.name={name}");
    let found = answer(api.list(&ListParams::default().fields(&named))).await?;
    let version = found.metadata.resource_version.unwrap_or_default();
    hear(found.items.into_iter().next().map_or(Heard::Missing, Heard::There));
    let params = WatchParams::default().fields(&named).timeout(WATCH_SECONDS);
    let mut events = pin!(answer(api.watch(&params, &version)).await?);
    loop {
        let Ok(event) = timeout(SILENCE, events.try_next()).await else {
            return Err(KubernetesError::Silent);
        };
        match event.map_err(KubernetesError::Api)? {
            Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                hear(Heard::There(object));
            }
            Some(WatchEvent::Deleted(_object)) => hear(Heard::Missing),
            Some(WatchEvent::Bookmark(_)) => {}
            Some(WatchEvent::Error(status)) if status.code != GONE => {
                return Err(KubernetesError::Api(kube::Error::Api(status)));
            }
            Some(WatchEvent::Error(_)) | None => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_never_lasts_is_asked_for_ever_more_rarely() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, second * 16);
        let mut last = Duration::ZERO;
        for _ in 0..4 {
            // half of it at least, and never more than the whole
            let next = pause(&mut backoff, SOUND / 2);
            assert!(next >= last, "{next:?} after {last:?}");
            last = next;
        }
        assert!(pause(&mut backoff, SOUND) <= second);
    }
}
