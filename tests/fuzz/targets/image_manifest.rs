//! Manifests and indexes: any bytes are a document within its bounds, or an error of one bounded line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vaquita_image::fuzzing;

/// What a registry may call it.
const TYPES: [Option<&str>; 4] = [
    None,
    Some("application/vnd.oci.image.manifest.v1+json"),
    Some("application/vnd.oci.image.index.v1+json"),
    Some("application/vnd.docker.distribution.manifest.list.v2+json; charset=utf-8"),
];

fuzz_target!(|data: &[u8]| {
    let Some((head, bytes)) = data.split_last() else { return };
    if let Err(error) = fuzzing::document(bytes, TYPES[usize::from(*head) % TYPES.len()]) {
        vaquita_fuzz::one_line(&error);
    }
});
