//! Waiting for a state instead of sleeping.

use std::{
    env, io,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use inotify::{EventStream, Inotify, WatchMask};
use tokio::time::timeout;

/// What was awaited did not come in time.
#[derive(Debug, thiserror::Error)]
#[error("{what} did not come within {within:?}")]
pub struct TooLate {
    /// What.
    pub what: String,
    /// The deadline.
    pub within: Duration,
}

/// How many times as long everything may take, from the environment: for emulated machines.
const FACTOR: &str = "VSECM_PATIENCE";

/// `within`, on a machine of this one's speed.
pub fn patience(within: Duration) -> Duration {
    static FOUND: OnceLock<u32> = OnceLock::new();
    let factor =
        FOUND.get_or_init(|| env::var(FACTOR).ok().and_then(|f| f.parse().ok()).unwrap_or(1));
    within * *factor
}

/// How often a state is looked at that cannot be listened to.
const LOOK: Duration = Duration::from_millis(2);

/// Waits until `holds`.
///
/// # Errors
/// [`TooLate`], with `what` in its sentence.
pub async fn until(
    what: &str,
    within: Duration,
    mut holds: impl FnMut() -> bool,
) -> Result<(), TooLate> {
    value(what, within, || holds().then_some(())).await
}

/// Waits until `probe` has a value.
///
/// # Errors
/// [`TooLate`], with `what` in its sentence.
pub async fn value<T>(
    what: &str,
    within: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> Result<T, TooLate> {
    let within = patience(within);
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = probe() {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            return Err(TooLate { what: what.to_owned(), within });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A wait at a volume failed.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The folder cannot be watched.
    #[error("cannot watch {}", path.display())]
    Watch {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No rotation in time.
    #[error(transparent)]
    TooLate(#[from] TooLate),
}

/// Rotations of a volume, as an application sees them: by inotify, `..data` moved into place.
#[derive(Debug)]
pub struct Rotations {
    path: PathBuf,
    events: EventStream<[u8; 4096]>,
}

impl Rotations {
    /// Watches the volume at `path` from now on.
    ///
    /// # Errors
    /// [`RotationError::Watch`].
    pub fn watch(path: &Path) -> Result<Self, RotationError> {
        let open = || {
            let inotify = Inotify::init()?;
            inotify.watches().add(path, WatchMask::MOVED_TO)?;
            inotify.into_event_stream([0; 4096])
        };
        let events =
            open().map_err(|source| RotationError::Watch { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), events })
    }

    /// Waits for a rotation since the last one that was waited for. Several that come before they
    /// are waited for may be one: the kernel merges equal events.
    ///
    /// # Errors
    /// [`RotationError::TooLate`], [`RotationError::Watch`].
    pub async fn next(&mut self, within: Duration) -> Result<(), RotationError> {
        let path = self.path.clone();
        let within = patience(within);
        let Ok(read) = timeout(within, self.read()).await else {
            let what = format!("a rotation of {}", path.display());
            return Err(TooLate { what, within }.into());
        };
        read.map_err(|source| RotationError::Watch { path, source })
    }

    async fn read(&mut self) -> io::Result<()> {
        while let Some(event) = self.events.next().await {
            if event?.name.is_some_and(|name| name == "..data") {
                return Ok(());
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_rotation_is_seen_when_data_moves_into_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name| folder.path().join(name);
        let mut rotations = Rotations::watch(folder.path()).unwrap();
        for _ in 0..2 {
            std::fs::write(path("..data_tmp"), "").unwrap();
            std::fs::rename(path("..data_tmp"), path("..data")).unwrap();
            rotations.next(SOON).await.unwrap();
        }
        let none = rotations.next(Duration::from_millis(1)).await;
        assert!(matches!(none, Err(RotationError::TooLate(_))));
    }

    #[tokio::test]
    async fn what_does_not_come_is_named() {
        let never = until("the end of time", Duration::from_millis(5), || false).await;
        assert_eq!(never.unwrap_err().to_string(), "the end of time did not come within 5ms");
    }
}
