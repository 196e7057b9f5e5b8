//! Configurations of images: any bytes are one, or an error of one bounded line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vaquita_image::fuzzing;

fuzz_target!(|data: &[u8]| {
    if let Err(error) = fuzzing::configuration(data) {
        vaquita_fuzz::one_line(&error);
    }
});
