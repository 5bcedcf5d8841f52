//! Mounts below a folder, without touching what is mounted: a dead server would hang us.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, umount2};

/// Mount points below `folder`, in the order in which they were mounted.
pub fn below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mountinfo = fs::read("/proc/self/mountinfo")?;
    let points = mountinfo.split(|b| *b == b'\n').filter_map(|line| {
        // id parent major:minor root mount-point …
        let point = line.split(|b| *b == b' ').nth(4)?;
        let point = PathBuf::from(unescape(point));
        point.starts_with(folder).then_some(point)
    });
    Ok(points.collect())
}

/// Takes away every mount below `folder`, whoever uses it, the last one first.
pub fn detach_below(folder: &Path) -> io::Result<usize> {
    let points = below(folder)?;
    for point in points.iter().rev() {
        umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    }
    Ok(points.len())
}

/// The kernel writes blanks and backslashes as three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = tail.get(..3).filter(|_| *first == b'\\').and_then(|code| {
            let code = OsStr::from_bytes(code).to_str()?;
            u8::from_str_radix(code, 8).ok()
        });
        bytes.push(escaped.unwrap_or(*first));
        rest = match escaped {
            Some(_) => tail.get(3..).unwrap_or_default(),
            None => tail,
        };
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_in_a_mount_point_are_read_back() {
        assert_eq!(unescape(br"/a\040b\134c"), r"/a b\c");
        assert_eq!(unescape(b"/plain"), "/plain");
    }

    #[test]
    fn mounts_elsewhere_are_not_below() {
        assert!(below(Path::new("/")).unwrap().len() > 1);
        assert!(below(Path::new("/nowhere")).unwrap().is_empty());
    }
}
