//! What inotify watchers see.

use std::{
    io::{self, ErrorKind},
    path::Path,
};

use inotify::{Inotify, WatchMask};

/// All events that a change makes; opens, reads and closes of readers are left out.
fn changes() -> WatchMask {
    WatchMask::ALL_EVENTS - WatchMask::OPEN - WatchMask::ACCESS - WatchMask::CLOSE_NOWRITE
}

/// A watch and what it has seen.
#[derive(Debug)]
pub struct Watching {
    inotify: Inotify,
    seen: Vec<String>,
}

impl Watching {
    /// Watches what `path` leads to from now on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn begin(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        inotify.watches().add(path, changes())?;
        Ok(Self { inotify, seen: Vec::new() })
    }

    /// All that was seen so far, one line an event: its bits, and its name.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn seen(&mut self) -> io::Result<&[String]> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.inotify.read_events(&mut buffer) {
                Ok(events) => self.seen.extend(events.map(|event| {
                    let name = event.name.unwrap_or_default().to_string_lossy();
                    let bits: Vec<_> = event.mask.iter_names().map(|(name, _bit)| name).collect();
                    format!("{} {name}", bits.join(",")).trim_end().to_owned()
                })),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(&self.seen),
                Err(e) => return Err(e),
            }
        }
    }

    /// Whether it was seen.
    pub fn has_seen(&mut self, event: &str) -> bool {
        self.seen().is_ok_and(|seen| seen.iter().any(|one| one == event))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn events_are_lines_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut watching = Watching::begin(folder.path()).unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::rename(folder.path().join("a"), folder.path().join("b")).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let seen = watching.seen().unwrap();
        assert_eq!(seen, ["CREATE,ISDIR a", "MOVED_FROM,ISDIR a", "MOVED_TO,ISDIR b"]);
    }
}
