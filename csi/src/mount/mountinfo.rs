//! `/proc/self/mountinfo`: the only way to look at a mount without asking its server.

use std::{ffi::OsString, os::unix::ffi::OsStringExt, path::Path};

use vsecm_node_agent_api::volume::VersionDir;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its id.
    pub id: u64,
    /// The id of the mount it is attached to.
    pub parent: u64,
    /// The device of its superblock: major and minor number.
    pub device: (u32, u32),
    /// What of the superblock it shows: a path from its root.
    pub root: Vec<u8>,
    /// Where it is attached.
    pub point: OsString,
    /// The file system's type, with its subtype.
    pub kind: String,
}

/// The mounts in a mountinfo text. A line that is not understood is no mount of ours: left out.
pub fn parse(text: &[u8]) -> impl Iterator<Item = Mount> {
    text.split(|b| *b == b'\n').filter_map(line)
}

/// The mount that is seen at `point`, if any is there: of several on one another the last.
pub fn topmost(text: &[u8], point: &Path) -> Option<Mount> {
    let here: Vec<Mount> = parse(text).filter(|m| m.point == point.as_os_str()).collect();
    let is_covered = |mount: &Mount| here.iter().any(|m| m.parent == mount.id && m.id != mount.id);
    here.iter().rev().find(|m| !is_covered(m)).cloned()
}

fn line(line: &[u8]) -> Option<Mount> {
    let number = |field| std::str::from_utf8(field).ok()?.parse().ok();
    let mut fields = line.split(|b| *b == b' ');
    let (id, parent) = (number(fields.next()?)?, number(fields.next()?)?);
    let device = std::str::from_utf8(fields.next()?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let root = unescape(fields.next()?);
    let point = OsString::from_vec(unescape(fields.next()?));
    // mount options and any number of optional fields end with a lone dash
    let kind = fields.skip_while(|f| *f != b"-").nth(1)?;
    let kind = String::from_utf8(unescape(kind)).ok()?;
    Some(Mount { id, parent, device, root, point, kind })
}

impl Mount {
    /// The version's folder that it shows, or shows something of, and the path in it.
    pub fn version(&self) -> Option<(VersionDir, String)> {
        let root = self.root.strip_prefix(b"/")?;
        // its name was unlinked, or is not known to the kernel any more
        let root = root.strip_suffix(b"//deleted").unwrap_or(root);
        let root = std::str::from_utf8(root).ok()?;
        let (dir, path) = root.split_once('/').unwrap_or((root, ""));
        Some((dir.parse().ok()?, path.to_owned()))
    }
}

/// The kernel writes space, tab, newline, backslash and some more as `\` and three octal digits.
fn unescape(mut rest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(rest.len());
    while let [first, tail @ ..] = rest {
        let (mut byte, mut after) = (*first, tail);
        if let [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', escaped @ ..] = rest {
            byte = (a - b'0') << 6 | (b - b'0') << 3 | (c - b'0');
            after = escaped;
        }
        bytes.push(byte);
        rest = after;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &[u8] = b"\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
90 22 0:50 / /k/pods/a\\040b/mount ro,nosuid,nodev,noexec,relatime shared:7 master:2 - fuse.vsecm vsecm rw,user_id=0
91 22 0:51 / /k/t rw - tmpfs tmpfs rw
95 91 0:52 / /k/t ro - fuse.vsecm vsecm rw
92 22 0:53 / /k/u ro - fuse.vsecm vsecm rw
this is no mount
";

    #[test]
    fn a_mount_is_found_by_its_path_even_with_a_space_in_it() {
        let mount = topmost(TEXT, Path::new("/k/pods/a b/mount")).unwrap();
        assert_eq!((mount.id, mount.parent), (90, 22));
        assert_eq!((mount.device, mount.kind.as_str()), ((0, 50), "fuse.vsecm"));
        assert_eq!(topmost(TEXT, Path::new("/k/pods")), None);
        assert_eq!(parse(TEXT).count(), 5);
    }

    #[test]
    fn a_mount_of_a_part_of_a_version_is_told_from_others() {
        let version = |root: &str| {
            let text = format!("5 1 0:50 {root} /x ro - fuse.vsecm vsecm rw\n");
            let mount = parse(text.as_bytes()).next().unwrap();
            assert_eq!(mount.device, (0, 50));
            mount.version().map(|(dir, path)| (dir.to_string(), path))
        };
        let is = |dir: &str, path: &str| Some((dir.to_owned(), path.to_owned()));
        assert_eq!(version("/..7"), is("..7", ""));
        assert_eq!(version("/..7//deleted"), is("..7", ""));
        assert_eq!(version("/..7/a\\040b//deleted"), is("..7", "a b"));
        assert_eq!(version("/..7/tls/key"), is("..7", "tls/key"));
        for other in ["/", "/..data", "/a", "/a/..7", "/../..7"] {
            assert_eq!(version(other), None, "{other}");
        }
    }

    #[test]
    fn of_mounts_on_one_another_the_upper_one_is_seen() {
        assert_eq!(topmost(TEXT, Path::new("/k/t")).unwrap().id, 95);
        let mut lines: Vec<&[u8]> = TEXT.split(|b| *b == b'\n').collect();
        lines.reverse();
        let reversed = lines.join(&b'\n');
        assert_eq!(topmost(&reversed, Path::new("/k/t")).unwrap().id, 95);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            assert!(parse(&text).count() <= 200);
        }

        #[test]
        fn any_path_survives_the_kernels_escapes(path in proptest::collection::vec(1_u8..=255, 1..40)) {
            let mut escaped = Vec::new();
            for byte in &path {
                match byte {
                    b' ' | b'\t' | b'\n' | b'\\' | b'#' => {
                        escaped.extend(format!("\\{byte:03o}").bytes());
                    }
                    _ => escaped.push(*byte),
                }
            }
            let mut text = b"5 1 0:5 / ".to_vec();
            text.extend(&escaped);
            text.extend(b" rw - tmpfs t rw\n");
            let mounts: Vec<Mount> = parse(&text).collect();
            prop_assert_eq!(&mounts[0].point, &OsString::from_vec(path));
        }
    }
}
