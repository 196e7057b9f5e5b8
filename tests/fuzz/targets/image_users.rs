//! Users and groups of an image: any files and any name give ids within bounds, or an error of one bounded line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vaquita_image::fuzzing;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.splitn(3, '\u{1}');
    let [user, passwd, group] = std::array::from_fn(|_| parts.next().unwrap_or_default());
    if let Err(error) = fuzzing::user(user, passwd, group) {
        vaquita_fuzz::one_line(&error);
    }
});
