//! Whose turn it is: of the node's pods with csi and node-agent, one serves, the others stand by.
//!
//! The processes of the serving pod hold a shared `flock` on one file, which says that pod's uid.
//! The kernel frees the lock with the last of them, however it dies; no hand-over is needed.
//!
//! The file changes only under the exclusive lock, so it says the same for as long as anybody has
//! the shared one. Whoever has that *and* reads its own pod's uid therefore shares it with its own
//! pod only. Both are needed: `flock` turns an exclusive lock into a shared one in two steps, and
//! another may come between.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, ErrorKind, Read, Seek, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    process,
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};
use tokio::time::sleep;

use crate::volume::PodUid;

/// Between two looks at the lock: no call waits for both "free" and "held by my own pod".
const PAUSE: Duration = Duration::from_millis(100);

/// Bytes of the file that are read at most: one more than a [`PodUid`] has.
const CONTENT_LIMIT: u64 = 65;

/// The right to serve this node, for as long as this lives.
#[derive(Debug)]
pub struct Turn {
    _lock: File,
}

impl Turn {
    /// Waits until it is this pod's turn; `path` is the lock file, the same for all pods.
    ///
    /// # Errors
    /// As [`Self::look`].
    pub async fn wait(path: &Path, pod: &PodUid) -> io::Result<Self> {
        loop {
            if let Some(turn) = Self::look(path, pod)? {
                return Ok(turn);
            }
            sleep(PAUSE).await;
        }
    }

    /// Takes the turn if it is free or this pod's already; `None` while it is another's. The file
    /// is made by whom its folder allows to; for others it is another's until it is there.
    ///
    /// # Errors
    /// The file is not a regular one, a symlink, or may not be opened.
    pub fn look(path: &Path, pod: &PodUid) -> io::Result<Option<Self>> {
        let mut opened = open(path)?;
        if opened.is_none() {
            make(path)?;
            opened = open(path)?;
        }
        let Some(mut lock) = opened else { return Ok(None) };
        if locked(&lock, FlockOperation::NonBlockingLockExclusive)? {
            lock.set_len(0)?;
            lock.write_all(pod.as_str().as_bytes())?;
        } else if !says(&lock, pod)? {
            return Ok(None);
        }
        Self::share(lock, pod)
    }

    /// The last step of both ways. Since the file was written or read, another pod may have come.
    fn share(lock: File, pod: &PodUid) -> io::Result<Option<Self>> {
        let shared = locked(&lock, FlockOperation::NonBlockingLockShared)?;
        Ok(if shared && says(&lock, pod)? { Some(Self { _lock: lock }) } else { None })
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    // a FIFO would otherwise hold us
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    match opened {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Ok(lock) if !lock.metadata()?.is_file() => {
            Err(io::Error::new(ErrorKind::InvalidInput, "the lock is not a regular file"))
        }
        opened => opened.map(Some),
    }
}

/// Makes the file, group-writable whatever the umask: with its mode it appears under its name.
fn make(path: &Path) -> io::Result<()> {
    use ErrorKind::{AlreadyExists, NotFound, PermissionDenied, ReadOnlyFilesystem};
    let unless = |kinds: &[ErrorKind], done: io::Result<()>| match done {
        Err(e) if kinds.contains(&e.kind()) => Ok(()),
        done => done,
    };
    let draft = path.with_extension(process::id().to_string());
    match File::create_new(&draft) {
        Ok(file) => {
            file.set_permissions(Permissions::from_mode(0o660))?;
            // another was faster, or took our draft for that of a killed process of the same id
            unless(&[AlreadyExists, NotFound], fs::hard_link(&draft, path))?;
        }
        Err(e) if e.kind() == AlreadyExists => {}
        Err(e) => return unless(&[PermissionDenied, ReadOnlyFilesystem], Err(e)),
    }
    unless(&[NotFound], fs::remove_file(&draft))
}

fn locked(lock: &File, operation: FlockOperation) -> io::Result<bool> {
    match flock(lock, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn says(mut lock: &File, pod: &PodUid) -> io::Result<bool> {
    let mut content = Vec::new();
    lock.rewind()?;
    lock.take(CONTENT_LIMIT).read_to_end(&mut content)?;
    Ok(content == pod.as_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        env,
        io::{BufRead, BufReader},
        os::unix::fs::symlink,
        path::PathBuf,
        process::{Command, Stdio},
        sync::Mutex,
        thread,
    };

    use super::*;

    fn pod(uid: &str) -> PodUid {
        uid.parse().unwrap()
    }

    fn mk_lock() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        (dir, path)
    }

    #[test]
    fn the_lock_is_one_pods_and_its_processes_share_it() {
        let (_dir, path) = mk_lock();
        let csi = Turn::look(&path, &pod("a")).unwrap().expect("free");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(Turn::look(&path, &pod("b")).unwrap().is_none());
        let agent = Turn::look(&path, &pod("a")).unwrap().expect("joined");
        drop(csi);
        assert!(Turn::look(&path, &pod("b")).unwrap().is_none(), "one of the pod still serves");
        let csi = Turn::look(&path, &pod("a")).unwrap().expect("joined again");
        drop((csi, agent));
        let successor = Turn::look(&path, &pod("b")).unwrap().expect("both are dead");
        assert!(Turn::look(&path, &pod("a")).unwrap().is_none());
        drop(successor);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn who_waits_gets_its_turn_when_the_other_is_killed() {
        let (_dir, path) = mk_lock();
        let mut holder = Command::new(env::current_exe().unwrap())
            .args(["--exact", "turn::tests::holds_until_killed", "--ignored", "--nocapture"])
            .env("TURN_TEST_LOCK", &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("it is our turn")));
        let waiting = {
            let path = path.clone();
            tokio::spawn(async move { Turn::wait(&path, &pod("b")).await })
        };
        assert!(Turn::look(&path, &pod("c")).unwrap().is_none());
        assert!(!waiting.is_finished());
        holder.kill().unwrap();
        holder.wait().unwrap();
        waiting.await.unwrap().unwrap();
    }

    #[test]
    #[ignore = "a process of the test above"]
    fn holds_until_killed() {
        let Some(path) = env::var_os("TURN_TEST_LOCK") else { return };
        let _turn = Turn::look(Path::new(&path), &pod("a")).unwrap().expect("free");
        io::stdout().write_all(b"it is our turn\n").unwrap();
        thread::sleep(Duration::from_mins(1));
    }

    #[test]
    fn of_many_contenders_never_two_pods_have_the_turn() {
        let (_dir, path) = mk_lock();
        let inside: Mutex<BTreeMap<PodUid, usize>> = Mutex::default();
        let serve = |uid: PodUid| {
            for _round in 0..200 {
                let turn = loop {
                    if let Some(turn) = Turn::look(&path, &uid).unwrap() {
                        break turn;
                    }
                };
                let mut now = inside.lock().unwrap();
                *now.entry(uid.clone()).or_default() += 1;
                assert_eq!(now.len(), 1, "{now:?}");
                drop(now);
                thread::yield_now();
                let mut now = inside.lock().unwrap();
                let left = now.remove(&uid).unwrap() - 1;
                now.extend((left > 0).then(|| (uid.clone(), left)));
                drop(now);
                // after its mark is gone: the next one's would stand beside it
                drop(turn);
            }
        };
        thread::scope(|scope| {
            for number in 0..12 {
                let serve = &serve;
                scope.spawn(move || serve(pod(&format!("pod-{}", number % 4))));
            }
        });
    }

    #[test]
    fn who_finds_another_pod_between_the_two_steps_stands_back() {
        let (_dir, path) = mk_lock();
        let turn = Turn::look(&path, &pod("b")).unwrap().expect("free");
        let lock = || open(&path).unwrap().unwrap();
        assert!(Turn::share(lock(), &pod("a")).unwrap().is_none());
        assert!(Turn::share(lock(), &pod("b")).unwrap().is_some());
        drop(turn);
        assert!(Turn::look(&path, &pod("a")).unwrap().is_some(), "nothing was left locked");
    }

    #[test]
    fn what_is_no_lock_file_is_refused_and_nothing_is_written_through_it() {
        let (dir, path) = mk_lock();
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, "as it was").unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert!(Turn::look(&path, &pod("a")).is_err());
        assert_eq!(fs::read(&elsewhere).unwrap(), b"as it was");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(Turn::look(&path, &pod("a")).is_err());
        let orphan = dir.path().join("nowhere/lock");
        assert!(
            Turn::look(&orphan, &pod("a")).is_err(),
            "a missing folder is said, not waited for"
        );
    }

    #[test]
    fn a_lock_with_much_in_it_is_nobodys_and_is_made_ones_own() {
        let (_dir, path) = mk_lock();
        fs::write(&path, "a".repeat(1 << 20)).unwrap();
        let stranger = File::open(&path).unwrap();
        flock(&stranger, FlockOperation::LockShared).unwrap();
        assert!(Turn::look(&path, &pod(&"a".repeat(64))).unwrap().is_none());
        drop(stranger);
        let _turn = Turn::look(&path, &pod("a")).unwrap().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"a");
    }

    #[test]
    fn the_first_look_at_a_lock_that_is_not_there_takes_it() {
        let (_dir, path) = mk_lock();
        assert!(Turn::look(&path, &pod("a")).unwrap().is_some());
    }

    #[tokio::test]
    async fn a_draft_that_a_killed_process_left_is_no_obstacle() {
        let (_dir, path) = mk_lock();
        fs::write(path.with_extension(process::id().to_string()), "").unwrap();
        let _turn = Turn::wait(&path, &pod("a")).await.unwrap();
    }
}
