//! `/proc/self/mountinfo`: a text of any kind is read line by line, and a mount's path survives
//! the kernel's escapes.

#![no_main]

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Path};

use libfuzzer_sys::fuzz_target;
use vsecm_csi::mount::mountinfo::{Mount, parse, topmost};

fuzz_target!(|data: &[u8]| {
    let mounts: Vec<Mount> = parse(data).collect();
    assert!(mounts.len() <= data.split(|b| *b == b'\n').count());
    for mount in &mounts {
        if let Some(seen) = topmost(data, Path::new(&mount.point)) {
            assert!(seen.point == mount.point && mounts.contains(&seen));
        }
    }

    // the same bytes as a path: a file's name cannot add a mount or change one
    let point: Vec<u8> = data.iter().copied().filter(|b| *b != 0).collect();
    let mut text = b"5 1 0:5 / ".to_vec();
    for byte in &point {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => {
                text.extend(format!("\\{byte:03o}").into_bytes());
            }
            _ => text.push(*byte),
        }
    }
    text.extend_from_slice(b" ro - fuse.vsecm vsecm rw\n");
    let point = OsStr::from_bytes(&point);
    let expected =
        Mount { id: 5, parent: 1, point: point.to_owned(), kind: "fuse.vsecm".to_owned() };
    assert_eq!(parse(&text).collect::<Vec<_>>(), [expected.clone()]);
    if let [plain] = topmost(&text, Path::new(point)).as_slice() {
        assert_eq!(*plain, expected);
    }
});
