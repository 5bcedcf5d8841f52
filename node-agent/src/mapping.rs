//! A sealed memory file, mapped: the only copy of a document that this process has, locked in memory
//! as far as its limit goes ([I7]: not on the node's disk, so not on a swap device).

use std::{
    ffi::c_void,
    io,
    os::fd::OwnedFd,
    ptr::{self, NonNull},
    slice,
    sync::atomic::{AtomicUsize, Ordering},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::mm::{MapFlags, ProtFlags, mlock, mmap, munmap};
use tracing::warn;

use crate::memfd::{self, MemfdError};

/// Bytes that are locked.
static LOCKED: AtomicUsize = AtomicUsize::new(0);

/// Bytes that could not be.
static UNLOCKED: AtomicUsize = AtomicUsize::new(0);

/// Lifts the soft limit of locked memory to the hard one.
///
/// # Errors
/// What the kernel said.
pub fn raise_lock_limit() -> io::Result<()> {
    let (_soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    Ok(setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard)?)
}

/// Bytes of mapped documents that are locked, and that are not.
pub fn locked_and_unlocked() -> (usize, usize) {
    (LOCKED.load(Ordering::Relaxed), UNLOCKED.load(Ordering::Relaxed))
}

/// The bytes of a sealed memory file.
#[expect(missing_debug_implementations, reason = "a value has no exits")]
pub struct Mapping {
    start: NonNull<c_void>,
    size: usize,
    counted: &'static AtomicUsize,
}

impl Mapping {
    /// Maps a sealed memory file of 1 to `limit` bytes.
    ///
    /// # Errors
    /// [`MemfdError`].
    #[expect(unsafe_code, reason = "neither rustix nor nix has a safe way to map or lock a file")]
    pub fn of(memfd: &OwnedFd, limit: usize) -> Result<Self, MemfdError> {
        let size = memfd::size(memfd, limit)?;
        // a shared one of a file that is sealed against writing is refused before Linux 6.7; where
        // nothing is written the pages of a private one are the file's own
        // SAFETY: the kernel chooses a place where nothing is mapped
        let start =
            unsafe { mmap(ptr::null_mut(), size, ProtFlags::READ, MapFlags::PRIVATE, memfd, 0) }
                .map_err(io::Error::from)?;
        // SAFETY: just that was mapped
        let counted = match unsafe { mlock(start, size) } {
            Ok(()) => &LOCKED,
            Err(error) => {
                if UNLOCKED.load(Ordering::Relaxed) == 0 {
                    let locked = LOCKED.load(Ordering::Relaxed);
                    warn!(%error, locked, "the limit of locked memory (ulimit -l) is reached: where the node has swap, further documents may be written there; a metric counts them");
                }
                &UNLOCKED
            }
        };
        let start =
            NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory).map_err(io::Error::from)?;
        counted.fetch_add(size, Ordering::Relaxed);
        Ok(Self { start, size, counted })
    }

    /// The bytes.
    #[expect(unsafe_code, reason = "a mapping is no slice to the compiler")]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: so many bytes are mapped until `self` is dropped, the file cannot shrink, and
        // nobody can write to it: it is sealed
        unsafe { slice::from_raw_parts(self.start.as_ptr().cast(), self.size) }
    }
}

impl Drop for Mapping {
    #[expect(unsafe_code, reason = "as above")]
    fn drop(&mut self) {
        self.counted.fetch_sub(self.size, Ordering::Relaxed);
        // SAFETY: it was mapped by `of`, and no slice outlives `self`
        if let Err(error) = unsafe { munmap(self.start.as_ptr(), self.size) } {
            warn!(%error, "a document stays mapped");
        }
    }
}

// SAFETY: nobody ever writes to what is mapped
#[expect(unsafe_code, reason = "the compiler cannot know that")]
unsafe impl Send for Mapping {}

// SAFETY: as above
#[expect(unsafe_code, reason = "the compiler cannot know that")]
unsafe impl Sync for Mapping {}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_mapped_is_the_file_and_is_locked_or_counted() {
        let memfd = memfd::sealed(&[b"one", b"two"]).unwrap();
        let mapping = Mapping::of(&memfd, 6).unwrap();
        assert_eq!(mapping.bytes(), b"onetwo");
        let (locked, unlocked) = locked_and_unlocked();
        assert!(locked + unlocked >= 6);
        if unlocked == 0 {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("VmLck:")).unwrap();
            assert!(!line.ends_with(" 0 kB"), "{line}");
        }
    }

    #[test]
    fn what_is_too_large_or_not_sealed_is_not_mapped() {
        let memfd = memfd::sealed(&[b"0123456789"]).unwrap();
        assert!(matches!(Mapping::of(&memfd, 9), Err(MemfdError::TooLarge(10))));
        let open = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(matches!(Mapping::of(&open, 9), Err(MemfdError::Unsealed)));
    }
}
