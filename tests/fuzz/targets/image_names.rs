//! Names of images and digests: any text is one, which reads back as it is written, or an error of one bounded line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use vaquita_image::{Digest, Reference};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else { return };
    match Digest::parse(text) {
        // There is one way to write a digest: it becomes the name of a file.
        Ok(digest) => assert_eq!(digest.to_string(), text),
        Err(error) => vaquita_fuzz::one_line(&error),
    }
    let reference = match Reference::parse(text) {
        Ok(reference) => reference,
        Err(error) => return vaquita_fuzz::one_line(&error),
    };
    let name = reference.name();
    assert_eq!(name, format!("{}/{}", reference.registry(), reference.repository()));
    assert!(!name.is_empty() && name.split('/').all(|part| !["", ".", ".."].contains(&part)), "{name:?}");
    assert!(name.chars().all(|c| c.is_ascii_graphic()), "{name:?}");
    for written in [reference.to_string(), reference.familiar()] {
        let again = Reference::parse(&written);
        assert!(again.as_ref().is_ok_and(|again| again.name() == name), "{text:?} -> {written:?} -> {again:?}");
    }
});
