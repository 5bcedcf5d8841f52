//! A pod's volume, as its containers use it. File operations may block while node-agent is away, so
//! they run on threads for that, with a deadline.

use std::{fs, io, path::PathBuf, time::Duration};

use super::Pod;

/// What no file operation takes, even while node-agent comes back.
const LIMIT: Duration = Duration::from_secs(20);

impl Pod {
    /// The content of a file, opened, read and closed.
    ///
    /// # Errors
    /// What the kernel says, or [`io::ErrorKind::TimedOut`].
    pub async fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let path = self.path().join(name);
        unhurried(move || fs::read(path)).await
    }

    /// The same as text.
    ///
    /// # Errors
    /// As [`Pod::read`], and for content that is not UTF-8.
    pub async fn read_text(&self, name: &str) -> io::Result<String> {
        let path = self.path().join(name);
        unhurried(move || fs::read_to_string(path)).await
    }

    /// The names in its root, in order, without those that start with `..`.
    ///
    /// # Errors
    /// As [`Pod::read`].
    pub async fn names(&self) -> io::Result<Vec<String>> {
        let path = self.path().to_owned();
        unhurried(move || names(path)).await
    }
}

fn names(path: PathBuf) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Does blocking work on a thread for that, with a deadline.
///
/// # Errors
/// What the work fails with, or [`io::ErrorKind::TimedOut`].
pub async fn unhurried<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let limit = crate::awaiting::patience(LIMIT);
    let done = tokio::time::timeout(limit, tokio::task::spawn_blocking(work)).await;
    match done {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panicked)) => Err(panicked.into()),
        Err(elapsed) => Err(elapsed.into()),
    }
}
