//! Looking for a value where it must not be.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::unistd::Pid;

use super::PlaygroundError;
use crate::layout::Layout;

pub(super) fn find(
    layout: &Layout,
    pids: &[Pid],
    needle: &[u8],
) -> Result<Vec<String>, PlaygroundError> {
    let mut files = Vec::new();
    let root = layout.root();
    // the device tells volumes, which hold the value by right, from files of ours
    let device = fs::metadata(root).map(|metadata| metadata.dev());
    let device = device.map_err(|e| file_error(root, e))?;
    walk(root, device, &layout.safe_data(), &mut files)?;
    for pid in pids {
        for name in ["cmdline", "environ"] {
            files.push(PathBuf::from(format!("/proc/{pid}/{name}")));
        }
    }
    let mut found = Vec::new();
    for path in files {
        match fs::read(&path) {
            Ok(bytes) if contains(&bytes, needle) => found.push(path.display().to_string()),
            // a process may have ended meanwhile
            Err(e) if path.starts_with(root) => return Err(file_error(&path, e)),
            _ => {}
        }
    }
    Ok(found)
}

fn walk(
    folder: &Path,
    device: u64,
    sealed: &Path,
    files: &mut Vec<PathBuf>,
) -> Result<(), PlaygroundError> {
    for entry in fs::read_dir(folder).map_err(|e| file_error(folder, e))? {
        let path = entry.map_err(|e| file_error(folder, e))?.path();
        let metadata = fs::symlink_metadata(&path).map_err(|e| file_error(&path, e))?;
        if metadata.dev() != device || path == *sealed {
            continue;
        }
        if metadata.is_dir() {
            walk(&path, device, sealed, files)?;
        } else if metadata.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

fn file_error(path: &Path, source: io::Error) -> PlaygroundError {
    PlaygroundError::File { path: path.to_owned(), source }
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && bytes.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::Users;

    #[test]
    fn a_value_is_found_in_logs_and_not_in_sealed_records() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::create(folder.path(), Users::Single).unwrap();
        layout.furnish(Users::Single).unwrap();
        fs::create_dir(layout.safe_data()).unwrap();
        fs::write(layout.safe_data().join("record"), "a canary").unwrap();
        assert!(find(&layout, &[], b"canary").unwrap().is_empty());
        let log = layout.log(crate::component::Component::Safe);
        fs::write(&log, "sings a canary here").unwrap();
        let found = find(&layout, &[], b"canary").unwrap();
        assert_eq!(found, [log.display().to_string()]);
    }
}
