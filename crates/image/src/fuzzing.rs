//! What the fuzz targets of `tests/fuzz` call: the parsers that are not public, with what must hold of their results.

use std::fs::File;
use std::io::{Seek as _, Write as _};

use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::manifest::{self, Document, Machine};
use crate::unpack::{Limits, Replay, run};
use crate::{Digest, Error};

/// Reads a manifest or an index.
pub fn document(bytes: &[u8], content_type: Option<&str>) -> Result<(), Error> {
    match manifest::parse(bytes, content_type)? {
        Document::Index(manifests) => {
            let Ok(chosen) = manifest::select(&manifests, &Machine::host()) else { return Ok(()) };
            assert!(manifests.contains(chosen));
            manifest::blob(chosen).map(drop)
        }
        Document::Manifest(read) => {
            assert!(read.layers.len() <= 500, "{} layers", read.layers.len());
            Ok(())
        }
    }
}

/// Reads the configuration of an image.
pub fn configuration(bytes: &[u8]) -> Result<(), Error> {
    for layers in 0..3 {
        let read = manifest::configuration(bytes, layers, &Machine::host());
        if let Ok(read) = read {
            assert_eq!(manifest::chain_ids(&read.diff_ids).len(), layers);
            return Ok(());
        }
    }
    manifest::configuration(bytes, 0, &Machine::host()).map(drop)
}

/// Resolves a user against the two files of an image.
pub fn user(text: &str, passwd: &str, group: &str) -> Result<crate::passwd::User, Error> {
    let user = crate::passwd::look_up(text, passwd, group)?;
    let limit = i32::MAX.unsigned_abs();
    assert!(user.uid <= limit && user.gid <= limit && user.additional_gids.iter().all(|gid| *gid <= limit));
    assert!(user.home.starts_with('/') && !user.home.contains(char::is_control));
    Ok(user)
}

/// Unpacks `stream` into the directory `home`, which has `fs`. What was unpacked makes the same stream again.
pub fn layer(stream: &[u8], home: OwnedFd, bytes: u64, entries: u64) -> Result<(), Error> {
    let again = home.try_clone().map_err(|e| Error::io("dup", &e))?;
    let input = memfd_create("layer", MemfdFlags::CLOEXEC).map_err(|e| Error::kernel("memfd_create", e))?;
    let mut input = File::from(input);
    input.write_all(stream).and_then(|()| input.rewind()).map_err(|e| Error::io("write", &e))?;
    let unpacked = run(input, home, Limits { bytes, entries })?;
    let replay = Replay::open(again, bytes)?;
    let mut plain = Vec::new();
    replay.write(&mut plain)?;
    assert_eq!(Digest::of(&plain), unpacked.diff_id, "the recipe makes another stream");
    Ok(())
}
