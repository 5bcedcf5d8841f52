//! A playground for one story.

use std::{fmt, ops::Deref, path::Path, time::Duration};

use tempfile::TempDir;
use tokio::sync::Semaphore;

use crate::{Options, Playground, PlaygroundError};

/// Playgrounds at a time: each is four processes at work, on a machine that may have two cores.
static ROOM: Semaphore = Semaphore::const_new(2);

/// A place for one playground, free again when dropped.
struct Room;

impl Room {
    async fn take() -> Result<Self, StoryError> {
        ROOM.acquire().await.map_err(|_closed| StoryError::NoRoom)?.forget();
        Ok(Self)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        ROOM.add_permits(1);
    }
}

/// What no step of a story should ever take.
pub const SOON: Duration = Duration::from_secs(20);

/// A playground in a folder of its own. Dropping it, as a failed story does, leaves no process, no
/// mount and no file; [`Story::end`] checks that its end was clean.
pub struct Story {
    // the order of the fields is the order in which they go
    playground: Playground,
    folder: TempDir,
    _room: Room,
}

impl fmt::Debug for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.playground, f)
    }
}

impl Deref for Story {
    type Target = Playground;

    fn deref(&self) -> &Playground {
        &self.playground
    }
}

/// A story could not begin or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum StoryError {
    /// No folder.
    #[error("no temporary folder")]
    Folder(#[source] std::io::Error),
    /// No room: cannot happen, as nobody closes it.
    #[error("there is no room for a playground")]
    NoRoom,
    /// The playground.
    #[error(transparent)]
    Playground(#[from] PlaygroundError),
}

/// Begins a story: csi holds publish calls for two seconds only, so that reasons are heard soon.
///
/// # Errors
/// [`StoryError`].
pub async fn start() -> Result<Story, StoryError> {
    let options = Options { hold: Duration::from_secs(2), ..Options::default() };
    start_with(options).await
}

/// Begins a story with other options.
///
/// # Errors
/// [`StoryError`].
pub async fn start_with(options: Options) -> Result<Story, StoryError> {
    let room = Room::take().await?;
    let folder = tempfile::Builder::new().prefix("vsecm-").tempdir().map_err(StoryError::Folder)?;
    let playground = Playground::start(folder.path(), options).await?;
    Ok(Story { playground, folder, _room: room })
}

impl Story {
    /// Ends the story and checks that nothing is left: no pod that does not go, no process, no
    /// mount, no child that was killed because it did not listen.
    ///
    /// # Errors
    /// [`PlaygroundError::Leaks`].
    pub async fn end(self) -> Result<(), PlaygroundError> {
        self.playground.shutdown().await
    }

    /// The folder of the playground.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
