//! The inside of a record: refused, or understood so that it encodes to the same bytes.

#![no_main]

use hmac::{Hmac, Mac as _};
use libfuzzer_sys::fuzz_target;
use sha2::Sha256;
use vsecm_safe::seal::{DecodeError, encoded_again};

const MAGIC: &[u8] = b"vsecm safe record 1\n";
const KEY: [u8; 32] = [7; 32];

fuzz_target!(|data: &[u8]| {
    let forged = encoded_again(data, &KEY).err();
    assert_eq!(forged, Some(DecodeError::Forged), "nobody guesses an HMAC");

    // the HMAC would stop the fuzzer at the door: let it in
    let mut plain = [MAGIC, data].concat();
    let tag = Hmac::<Sha256>::new_from_slice(&KEY)
        .expect("HMAC takes keys of any length")
        .chain_update(&plain)
        .finalize()
        .into_bytes();
    plain.extend_from_slice(&tag);
    match encoded_again(&plain, &KEY) {
        Ok(again) => assert!(*again == plain, "a record has one encoding only"),
        Err(refusal) => assert!(matches!(refusal, DecodeError::Malformed(_))),
    }
});
