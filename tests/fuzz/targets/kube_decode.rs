//! A request body: an object that is read the same from what it is written as, or an error.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vaquita_schema::decode::{self, Strictness};
use vaquita_schema::type_of;

fuzz_target!(|data: &[u8]| {
    let Some(ty) = type_of("", "v1", "Pod") else { return };
    let _ = decode::peek(data);
    for read in [decode::json, decode::yaml] {
        let _ = read(data, ty, Strictness::Strict);
        let Ok(decoded) = read(data, ty, Strictness::Warn) else { continue };
        let text = vaquita_schema::encode::encode(&decoded.value);
        let again = decode::json(&text, ty, Strictness::Strict).expect("what was read can be read again");
        assert_eq!(again.value, decoded.value);
    }
});
