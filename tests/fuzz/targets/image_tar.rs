//! Layers: any bytes are unpacked or refused, nothing outside the layer's directory changes, what is written stays within
//! its limit, and what was unpacked makes the same stream again. Root makes owners, devices and all.

#![no_main]

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use vaquita_image::fuzzing;

/// Most bytes of the stream and of the content of files.
const BYTES: u64 = 1 << 20;
const ENTRIES: u64 = 200;

fuzz_target!(|data: &[u8]| {
    let Some((head, stream)) = data.split_last() else { return };
    let mut stream = stream.to_vec();
    if head & 1 == 0 {
        mend(&mut stream);
    }
    // In memory, where there is such a place.
    let scratch = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
    for name in ["home", "home/fs", "canary"] {
        std::fs::create_dir(scratch.path().join(name)).expect("a directory");
    }
    std::fs::write(scratch.path().join("canary/file"), "x").expect("a file");
    let before = canary(scratch.path());
    let home = OwnedFd::from(File::open(scratch.path().join("home")).expect("the directory"));
    if let Err(error) = fuzzing::layer(&stream, home, BYTES, ENTRIES) {
        vaquita_fuzz::one_line(&error);
    }
    assert_eq!(canary(scratch.path()), before, "something outside changed");
    let names = std::fs::read_dir(scratch.path()).expect("the directory").count();
    assert_eq!(names, 2, "something new beside the layer");
    let used = vaquita_sys::fs::disk_usage(File::open(scratch.path().join("home")).expect("it").as_fd());
    let (bytes, inodes) = used.expect("the usage");
    assert!(bytes <= 2 * BYTES + (ENTRIES * 2 + 70_000) * 4096 && inodes <= ENTRIES * 2 + 70_000, "{bytes} {inodes}");
});

/// What can be seen of the files beside the layer.
fn canary(scratch: &Path) -> Vec<(u64, u32, u32, i64, i64)> {
    let see = |name: &str| {
        let meta = scratch.join(name).symlink_metadata().expect("it is still there");
        (meta.len(), meta.mode(), meta.uid(), meta.mtime(), meta.mtime_nsec())
    };
    vec![see("canary"), see("canary/file")]
}

/// Makes the checksums right along the chain of headers: else hardly any input would be an archive.
fn mend(stream: &mut [u8]) {
    let mut at = 0;
    while at + 512 <= stream.len() {
        let header = &mut stream[at..at + 512];
        if header.iter().all(|b| *b == 0) {
            return;
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits: String =
            header[124..136].iter().map(|b| char::from(*b)).filter(|c| ('0'..='7').contains(c)).collect();
        let size = usize::from_str_radix(&digits, 8).unwrap_or(0);
        at = at.saturating_add(512).saturating_add(size.saturating_add(511) / 512 * 512);
    }
}
