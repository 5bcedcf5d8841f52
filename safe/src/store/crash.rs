//! A process that writes is killed with SIGKILL at random moments: no acknowledged write is lost
//! and none is half there ([I1]).

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use vsecm_safe_api::name::SecretKey;

use super::{FileStore, Found, Store as _, Write};

/// Set in the child: the folder to write to.
const FOLDER: &str = "VSECM_TEST_CRASH_FOLDER";
/// The name under which the child finds what it has to do.
const TEST: &str = "store::crash::no_acknowledged_write_is_lost_by_a_kill";
const KILLS: usize = 60;
const KEYS: u32 = 12;

fn key(number: u32) -> SecretKey {
    SecretKey::parse(&format!("ns{}", number % 3), &format!("key-{number}")).unwrap()
}

/// A record that shows whether it is whole: its number, over and over.
fn record(number: u64) -> Vec<u8> {
    number.to_be_bytes().repeat(1 + usize::try_from(number % 700).unwrap())
}

fn number_of(record: &[u8]) -> Option<u64> {
    let number = u64::from_be_bytes(*record.first_chunk()?);
    (self::record(number) == record).then_some(number)
}

/// What the child does: batches of growing numbers; a line for each that was acknowledged.
fn write_for_ever(folder: &Path) {
    let store = FileStore::open(folder).unwrap();
    let first = stored(&store).into_values().max().unwrap_or(0);
    let mut out = std::io::stdout().lock();
    for number in first + 1.. {
        let keys = 1 + u32::try_from(number % u64::from(KEYS)).unwrap();
        let batch: Vec<Write> =
            (0..keys).map(|n| Write { key: key(n), sealed: record(number) }).collect();
        assert!(store.write(&batch).iter().all(Result::is_ok));
        writeln!(out, "{keys} {number}").unwrap();
        out.flush().unwrap();
    }
}

fn stored(store: &FileStore) -> BTreeMap<SecretKey, u64> {
    let found = store.load().unwrap().into_iter().map(|found| match found {
        Found::Record { key, sealed } => {
            let number = number_of(&sealed);
            (key, number.expect("a half record under its final name"))
        }
        other => panic!("{other:?}"),
    });
    found.collect()
}

fn child(folder: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn no_acknowledged_write_is_lost_by_a_kill() {
    if let Some(folder) = env::var_os(FOLDER) {
        write_for_ever(Path::new(&folder));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<SecretKey, u64> = BTreeMap::new();
    for round in 0..KILLS {
        let mut child = child(folder.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // killed after this many acknowledgements, in the midst of whatever it does then
        let mut left = 1 + round % 7;
        while left > 0 {
            let line = lines.next().expect("the child writes on").unwrap();
            left -= usize::from(note(&line, &mut acknowledged));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // what it said before it died counts too
        for line in lines {
            note(&line.unwrap(), &mut acknowledged);
        }
        let store = FileStore::open(folder.path()).unwrap();
        let stored = stored(&store);
        for (key, number) in &acknowledged {
            assert!(stored.get(key) >= Some(number), "{key}: {number} was acknowledged");
        }
    }
}

fn note(line: &str, acknowledged: &mut BTreeMap<SecretKey, u64>) -> bool {
    let mut numbers = line.split(' ').map(str::parse::<u64>);
    // the test harness prints lines of its own
    let (Some(Ok(keys)), Some(Ok(number))) = (numbers.next(), numbers.next()) else {
        return false;
    };
    for n in 0..u32::try_from(keys).unwrap() {
        acknowledged.insert(key(n), number);
    }
    true
}
