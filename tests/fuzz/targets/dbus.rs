//! What systemd, or who is there in its place, answers: any bytes are an answer or an error.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((head, answers)) = data.split_first() else { return };
    // Most inputs are of what follows the greeting.
    let greeting: &[u8] = if head & 2 == 0 { b"DATA\r\nOK 0123456789abcdef0123456789abcdef\r\n" } else { b"" };
    let said = vaquita_cgroup::systemd::talk(&[greeting, answers].concat(), head & 1 != 0);
    if let Err(error) = said {
        assert!(error.kind() != vaquita_cgroup::Kind::Timeout, "{error}");
    }
});
