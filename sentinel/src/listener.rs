//! Whoever reads what is said may go away at any time, as in `safe -l | head`.

use std::io::{self, Write};

/// Writes as long as somebody reads. What is said to nobody is dropped: it must neither stop the
/// command half-way nor hide by its own error how the command ended.
pub(crate) struct Listener<W> {
    to: W,
}

impl<W: Write> Listener<W> {
    pub(crate) fn new(to: W) -> Self {
        Self { to }
    }
}

impl<W: Write> Write for Listener<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.to.write(bytes) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(bytes.len()),
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.to.flush() {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }
}
