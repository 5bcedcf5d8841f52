//! A process that has a file mapped, which its end by SIGBUS must not take the story with it.

use std::{
    env,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    ptr,
};

use rustix::mm::{MapFlags, ProtFlags, mmap};

const FILE: &str = "VSECM_STORY_MAPPED";

/// A process with a mapping of a file, which it has touched once.
#[derive(Debug)]
pub(crate) struct Mapping {
    child: Child,
    stdin: ChildStdin,
}

impl Mapping {
    pub(crate) fn of(file: &Path) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "support::mapping::maps_until_told", "--ignored", "--nocapture"])
            .env(FILE, file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("it is mapped")));
        let stdin = child.stdin.take().unwrap();
        Self { child, stdin }
    }

    /// Touches it once more; the signal that ended the process, if one did.
    pub(crate) fn touch(self) -> Option<i32> {
        let Self { mut child, stdin } = self;
        drop(stdin);
        child.wait().unwrap().signal()
    }
}

#[test]
#[ignore = "a process of other stories"]
#[expect(unsafe_code, reason = "a mapping is what is tried")]
fn maps_until_told() {
    let Some(path) = env::var_os(FILE) else { return };
    let file = std::fs::File::open(path).unwrap();
    // SAFETY: a new mapping, of which one byte is read by a volatile read; nobody writes the file.
    // Where the byte is not there any more the process ends by SIGBUS, which is what it is for.
    let first = unsafe {
        let at = mmap(ptr::null_mut(), 1, ProtFlags::READ, MapFlags::SHARED, &file, 0).unwrap();
        at.cast::<u8>()
    };
    // SAFETY: as above
    let before = unsafe { ptr::read_volatile(first) };
    std::io::stdout().write_all(b"it is mapped\n").unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    // SAFETY: as above
    let after = unsafe { ptr::read_volatile(first) };
    assert_eq!(before, after);
}
