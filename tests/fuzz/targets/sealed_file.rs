//! A record's file under edits: it opens to what was sealed, or not at all.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use vsecm_safe::{
    entry::Entry,
    seal::{RootKey, Sealer, peek},
};
use vsecm_safe_api::{name::SecretKey, position::Revision};

static SEALED: LazyLock<(Sealer, SecretKey, Vec<u8>)> = LazyLock::new(|| {
    let sealer = Sealer::new(RootKey::generate().expect("random bytes"));
    let key = SecretKey::parse("shop", "db").expect("a key");
    let entry =
        Entry::Deleted { revision: Revision(1), at: std::time::SystemTime::UNIX_EPOCH.into() };
    let sealed = sealer.seal(&key, &entry).expect("sealing");
    (sealer, key, sealed)
});

fuzz_target!(|data: &[u8]| {
    let (sealer, key, sealed) = &*SEALED;
    assert!(sealer.open(data).is_err(), "nobody guesses a seal");
    if let Some(peek) = peek(data) {
        assert!(peek.format.chars().count() <= 16, "a hint does not flood a log");
    }

    // each three bytes are an edit: where (two), and what is turned
    let mut changed = sealed.clone();
    for edit in data.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % changed.len();
        changed[at] ^= edit[2];
    }
    match sealer.open(&changed) {
        Ok((found, _entry)) => assert!(found == *key && changed == *sealed),
        Err(_refusal) => assert!(changed != *sealed),
    }
});
