use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
};

use super::{file::check_permissions, *};

fn beside_records() -> StoredRecords {
    let key = RootKey::generate().unwrap();
    StoredRecords::SealedFor([key.fingerprint().clone()].into())
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn the_first_start_makes_a_key_that_the_next_one_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.txt");
    let made = RootKey::load_or_create(&path, || StoredRecords::None).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let read = RootKey::load_or_create(&path, beside_records).unwrap();
    assert_eq!(made.fingerprint(), read.fingerprint());
    assert_eq!(made.hmac(), read.hmac());
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 3, "VSecM's form");
}

#[test]
fn a_blank_or_missing_key_beside_records_is_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.txt");
    let records = beside_records();
    let StoredRecords::SealedFor(needed) = &records else { unreachable!() };
    for blank in [None, Some(""), Some("{}"), Some(" {}\n")] {
        if let Some(text) = blank {
            write(&path, text);
        }
        let error = RootKey::load_or_create(&path, || records.clone()).unwrap_err();
        assert!(matches!(error, RootKeyError::Lost { .. }), "{error}");
        let needed = needed.first().unwrap().to_string();
        assert!(error.to_string().contains(&needed), "{error}");
        assert_eq!(fs::read_to_string(&path).ok().as_deref(), blank);
    }
}

#[test]
fn a_blank_key_without_records_is_filled_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.txt");
    write(&path, "{}");
    let made = RootKey::load_or_create(&path, || StoredRecords::None).unwrap();
    let read = RootKey::load_or_create(&path, || StoredRecords::None).unwrap();
    assert_eq!(made.fingerprint(), read.fingerprint());
}

#[test]
fn only_a_recipient_that_belongs_to_the_identity_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.txt");
    let ours = RootKey::generate().unwrap().serialize();
    let theirs = RootKey::generate().unwrap().serialize();
    let lines: Vec<&str> = ours.lines().collect();
    let foreign = theirs.lines().nth(1).unwrap();
    for bad in [
        format!("{}\n{foreign}\n{}\n", lines[0], lines[2]),
        format!("{}\n{}\n", lines[0], lines[1]),
        format!("{}\n{}\nabc\n", lines[0], lines[1]),
        format!("{}\n{}\n{}\nmore\n", lines[0], lines[1], lines[2]),
        "not a key\nat\nall\n".to_owned(),
    ] {
        write(&path, &bad);
        let error = RootKey::load_or_create(&path, || StoredRecords::None).unwrap_err();
        assert!(matches!(error, RootKeyError::Malformed { .. }), "{error}");
        assert!(!format!("{error:?}").contains(lines[0]));
    }
    write(&path, &ours);
    assert!(RootKey::load_or_create(&path, || StoredRecords::None).is_ok());
}

#[test]
fn a_key_that_others_can_read_or_write_is_refused() {
    let check = |mode, owner, us| check_permissions(Path::new("key"), mode, owner, us).is_ok();
    for mode in [0o600, 0o400] {
        assert!(check(mode, 1000, 1000));
    }
    for mode in [0o644, 0o640, 0o604, 0o620, 0o602, 0o660, 0o666, 0o601] {
        assert!(!check(mode, 1000, 1000), "{mode:o}");
    }
    assert!(check(0o440, 0, 1000), "a Secret mounted with fsGroup is read by its group");
    assert!(!check(0o444, 0, 1000));
    assert!(!check(0o600, 1001, 1000), "another user's file");
}
