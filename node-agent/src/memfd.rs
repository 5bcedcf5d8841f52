//! Sealed memory files: what this process leaves to its successor.

use std::{
    io::{self, Read as _, Seek as _, Write as _},
    os::fd::OwnedFd,
};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};
use zeroize::Zeroizing;

/// Why a memory file cannot be made or believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemfdError {
    /// It could not be made, written or read.
    #[error("a memory file failed")]
    Memory(#[from] io::Error),
    /// It can still be changed by others.
    #[error("a memory file is not sealed")]
    Unsealed,
    /// It is larger than anything that is kept.
    #[error("a memory file has {0} bytes")]
    TooLarge(u64),
}

/// Nobody can change a byte of it, not even we.
const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// A sealed memory file that holds `parts`.
///
/// # Errors
/// [`MemfdError::Memory`].
pub fn sealed(parts: &[&[u8]]) -> Result<OwnedFd, MemfdError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = memfd_create("vsecm", flags).map_err(io::Error::from)?;
    let mut file = std::fs::File::from(memfd);
    for part in parts {
        file.write_all(part)?;
    }
    fcntl_add_seals(&file, SEALS).map_err(io::Error::from)?;
    Ok(file.into())
}

/// How large a memory file is that nobody can change.
pub(crate) fn size(memfd: &OwnedFd, limit: usize) -> Result<usize, MemfdError> {
    if !fcntl_get_seals(memfd).map_err(io::Error::from)?.contains(SEALS) {
        return Err(MemfdError::Unsealed);
    }
    let length = fstat(memfd).map_err(io::Error::from)?.st_size;
    let length = u64::try_from(length).unwrap_or(u64::MAX);
    let fits = usize::try_from(length).ok().filter(|size| *size <= limit);
    fits.ok_or(MemfdError::TooLarge(length))
}

/// What a sealed memory file holds, at most `limit` bytes.
///
/// # Errors
/// [`MemfdError`].
pub fn contents(memfd: &OwnedFd, limit: usize) -> Result<Zeroizing<Vec<u8>>, MemfdError> {
    let size = size(memfd, limit)?;
    let mut file = std::fs::File::from(memfd.try_clone()?);
    // sized once: a buffer that grows leaves unwiped copies behind
    let mut bytes = Zeroizing::new(Vec::with_capacity(size.saturating_add(1)));
    // the offset is shared with every dup of the descriptor
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_can_change_a_sealed_file() {
        let memfd = sealed(&[b"a", b"b"]).unwrap();
        assert_eq!(*contents(&memfd, 2).unwrap(), b"ab");
        let mut file = std::fs::File::from(memfd);
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(0).is_err());
    }

    #[test]
    fn a_file_that_can_still_be_changed_or_is_too_large_is_not_believed() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let open = memfd_create("x", flags).unwrap();
        assert!(matches!(contents(&open, 9), Err(MemfdError::Unsealed)));
        let large = sealed(&[b"0123456789"]).unwrap();
        assert!(matches!(contents(&large, 9), Err(MemfdError::TooLarge(10))));
    }
}
