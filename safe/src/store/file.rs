//! One sealed file per key in a folder.
//!
//! ```text
//! lock       held by the one Safe that works here
//! lineage    the store's id
//! tmp/       records that are being written; emptied at start
//! records/   <namespace>/<name>.age
//! set-aside/ records that did not open, for an operator to look at
//! ```
//!
//! A write is a temporary file, its fsync, a rename and an fsync of the folder. Writes of a batch
//! share the folders' fsyncs, and their files' fsyncs run side by side, which lets the file
//! system's journal join them.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use vsecm_safe_api::{name::SecretKey, position::Lineage};

use super::{
    Found, Store, StoreError, Write, file_name,
    folder::{entries, make_folders, on, sync_folder, walk},
};

const LOCK: &str = "lock";
const LINEAGE: &str = "lineage";
const TEMPORARY: &str = "tmp";
const RECORDS: &str = "records";
const SET_ASIDE: &str = "set-aside";
/// Fsyncs under way at once: beyond this, the journal has nothing more to join.
const WRITERS: usize = 8;

/// Records in a folder.
#[derive(Debug)]
pub struct FileStore {
    folder: PathBuf,
    lineage: Lineage,
    next_temporary: AtomicU64,
    _lock: Flock<File>,
}

impl FileStore {
    /// Takes the folder over, which is made if it is missing.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        make_folders(folder)?;
        let lock = lock(folder)?;
        for name in [TEMPORARY, RECORDS, SET_ASIDE] {
            make_folders(&folder.join(name))?;
        }
        // a predecessor may have died in the middle of a write
        let temporary = folder.join(TEMPORARY);
        for entry in entries(&temporary)? {
            fs::remove_file(&entry).map_err(on("remove", &entry))?;
        }
        Ok(Self {
            lineage: lineage(folder)?,
            folder: folder.to_owned(),
            next_temporary: AtomicU64::new(0),
            _lock: lock,
        })
    }

    fn record(&self, key: &SecretKey) -> PathBuf {
        self.folder.join(RECORDS).join(file_name::path(key))
    }

    /// The record in a temporary file, on stable storage.
    fn prepare(&self, sealed: &[u8]) -> Result<PathBuf, StoreError> {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(TEMPORARY).join(number.to_string());
        write_new(&path, sealed)?;
        Ok(path)
    }

    fn prepare_all(&self, batch: &[Write]) -> Vec<Result<PathBuf, StoreError>> {
        let share = batch.len().div_ceil(WRITERS).max(1);
        thread::scope(|scope| {
            let writers: Vec<_> = batch
                .chunks(share)
                .map(|chunk| {
                    let prepare = || chunk.iter().map(|w| self.prepare(&w.sealed)).collect();
                    scope.spawn(prepare)
                })
                .collect();
            let shares = writers.into_iter().flat_map(|writer| -> Vec<_> {
                let prepared = writer.join();
                prepared.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            shares.collect()
        })
    }
}

impl Store for FileStore {
    fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    fn load(&self) -> Result<Vec<Found>, StoreError> {
        let mut found = Vec::new();
        let records = self.folder.join(RECORDS);
        walk(&records, &mut |path| {
            // by its one path only: numbers are for what was set aside
            let key = key_of(path, &records).filter(|key| self.record(key) == path);
            let read = || fs::read(path).map_err(on("read", path));
            found.push(match key.map(|key| (key, read())) {
                None => foreign(path),
                Some((key, Ok(sealed))) => Found::Record { key, sealed },
                Some((key, Err(error))) => Found::Unreadable { key, error },
            });
        })?;
        let aside = self.folder.join(SET_ASIDE);
        walk(&aside, &mut |path| {
            found.push(match key_of(path, &aside) {
                None => foreign(path),
                Some(key) => Found::SetAside { key },
            });
        })?;
        // VSecM's own records lie in the data folder itself
        let is_theirs = |path: &PathBuf| path.extension().is_some_and(|e| e == "age");
        let theirs = entries(&self.folder)?.into_iter().filter(is_theirs);
        found.extend(theirs.map(|path| foreign(&path)));
        Ok(found)
    }

    fn write(&self, batch: &[Write]) -> Vec<Result<(), StoreError>> {
        let mut folders: BTreeSet<PathBuf> = BTreeSet::new();
        let renamed: Vec<Result<PathBuf, StoreError>> = batch
            .iter()
            .zip(self.prepare_all(batch))
            .map(|(write, prepared)| {
                let temporary = prepared?;
                let record = self.record(&write.key);
                let folder = parent(&record).to_owned();
                move_to(&temporary, &record).inspect_err(|_| forget(&temporary))?;
                folders.insert(folder.clone());
                Ok(folder)
            })
            .collect();
        let failed: Vec<(PathBuf, io::ErrorKind)> = folders
            .into_iter()
            .filter_map(|folder| {
                let synced = File::open(&folder).and_then(|f| f.sync_all());
                Some((folder, synced.err()?.kind()))
            })
            .collect();
        renamed
            .into_iter()
            .map(|folder| {
                let folder = folder?;
                match failed.iter().find(|(unsynced, _)| *unsynced == folder) {
                    None => Ok(()),
                    Some((_, kind)) => Err(on("sync", &folder)((*kind).into())),
                }
            })
            .collect()
    }

    fn set_aside(&self, key: &SecretKey) -> Result<String, StoreError> {
        let record = self.record(key);
        let aside = self.folder.join(SET_ASIDE).join(file_name::path(key));
        let free = (0..u32::MAX)
            .map(|number| file_name::numbered(&aside, number))
            .find(|path| !path.exists())
            .unwrap_or(aside);
        move_to(&record, &free)?;
        sync_folder(parent(&free))?;
        sync_folder(parent(&record))?;
        Ok(free.display().to_string())
    }
}

/// An id for a new store.
pub(super) fn random_lineage() -> Result<Lineage, StoreError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|source| StoreError::Random { reason: source.to_string() })?;
    Ok(Lineage::from_random(bytes))
}

fn lock(folder: &Path) -> Result<Flock<File>, StoreError> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(on("open", &path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => StoreError::InUse { folder: folder.to_owned() },
        other => on("lock", &path)(other.into()),
    })
}

fn lineage(folder: &Path) -> Result<Lineage, StoreError> {
    let path = folder.join(LINEAGE);
    match fs::read_to_string(&path) {
        Ok(text) => text.trim_end().parse().map_err(|_refused| StoreError::Lineage { path }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let lineage = random_lineage()?;
            let temporary = folder.join(TEMPORARY).join(LINEAGE);
            write_new(&temporary, format!("{lineage}\n").as_bytes())?;
            fs::rename(&temporary, &path).map_err(on("write", &path))?;
            sync_folder(folder)?;
            Ok(lineage)
        }
        Err(e) => Err(on("read", &path)(e)),
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| {
        forget(path);
        on("write", path)(source)
    })
}

/// Of a write that failed: it would stay until the next start, on a disk that may be full.
fn forget(temporary: &Path) {
    let _gone: io::Result<()> = fs::remove_file(temporary);
}

/// A rename that makes the target's folder if need be.
fn move_to(from: &Path, to: &Path) -> Result<(), StoreError> {
    match fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            make_folders(parent(to))?;
            fs::rename(from, to).map_err(on("write", to))
        }
        other => other.map_err(on("write", to)),
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

fn key_of(path: &Path, folder: &Path) -> Option<SecretKey> {
    file_name::key(path.strip_prefix(folder).ok()?)
}

fn foreign(path: &Path) -> Found {
    Found::Foreign { place: path.display().to_string() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::{super::suite, *};

    fn open(folder: &Path) -> Box<dyn Store> {
        Box::new(FileStore::open(folder).unwrap())
    }

    #[test]
    fn it_does_what_every_store_must() {
        let folder = tempfile::tempdir().unwrap();
        suite::run(open(folder.path()), |store| {
            drop(store);
            open(folder.path())
        });
    }

    #[test]
    fn a_second_safe_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let first = FileStore::open(folder.path()).unwrap();
        let refusal = FileStore::open(folder.path()).unwrap_err();
        assert!(refusal.to_string().starts_with("another Safe works on"), "{refusal}");
        drop(first);
        FileStore::open(folder.path()).unwrap();
    }

    #[test]
    fn what_a_killed_predecessor_left_half_written_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let key = suite::key("default", "db");
        suite::write(&*store, &key, b"whole");
        drop(store);
        let left = folder.path().join(TEMPORARY).join("0");
        fs::write(&left, b"ha").unwrap();
        let store = open(folder.path());
        assert!(!left.exists());
        assert_eq!(suite::records(&*store), [(key, b"whole".to_vec())]);
    }

    #[test]
    fn a_volume_as_the_kubelet_hands_it_over_is_taken() {
        let chmod = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let volume = tempfile::tempdir().unwrap();
        // the root of a file system of its own, by fsGroup
        fs::create_dir(volume.path().join("lost+found")).unwrap();
        chmod(&volume.path().join("lost+found"), 0o700);
        chmod(volume.path(), 0o2770);
        let store = open(volume.path());
        let key = suite::key("default", "db");
        suite::write(&*store, &key, b"whole");
        drop(store);
        // at the next mount the kubelet opens all that is there to the group
        let mut folders = vec![volume.path().to_owned()];
        while let Some(folder) = folders.pop() {
            chmod(&folder, 0o2770);
            for entry in entries(&folder).unwrap() {
                if entry.is_dir() { folders.push(entry) } else { chmod(&entry, 0o660) }
            }
        }
        let store = open(volume.path());
        assert_eq!(suite::records(&*store), [(key.clone(), b"whole".to_vec())]);
        suite::write(&*store, &key, b"newer");
        assert_eq!(suite::records(&*store), [(key, b"newer".to_vec())]);
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_record_and_the_others_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let (good, bad) = (suite::key("good", "db"), suite::key("bad", "db"));
        // a file where the namespace's folder should be
        fs::write(folder.path().join(RECORDS).join("bad"), b"").unwrap();
        let batch = [&bad, &good].map(|key| Write { key: key.clone(), sealed: b"x".to_vec() });
        let results = store.write(&batch);
        assert!(results[0].is_err());
        assert!(results[1].is_ok());
        assert_eq!(entries(&folder.path().join(TEMPORARY)).unwrap().len(), 0);
        assert_eq!(suite::records(&*store), [(good, b"x".to_vec())]);
    }

    #[test]
    fn a_lineage_that_cannot_be_read_is_an_error_and_no_new_store() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path()));
        fs::write(folder.path().join(LINEAGE), "?").unwrap();
        let refusal = FileStore::open(folder.path()).unwrap_err();
        assert!(matches!(refusal, StoreError::Lineage { .. }));
    }

    #[test]
    fn what_is_no_record_of_ours_is_seen_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        suite::write(&*store, &suite::key("default", "db"), b"new");
        for foreign in ["example.age", "records/default/db.age~1"] {
            fs::write(folder.path().join(foreign), b"not ours").unwrap();
        }
        let mut found = store.load().unwrap();
        found.retain(|found| matches!(found, Found::Foreign { .. }));
        assert_eq!((found.len(), suite::records(&*store).len()), (2, 1));
    }
}
