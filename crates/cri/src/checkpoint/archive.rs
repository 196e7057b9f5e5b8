//! The archive: a tar file as CRI-O, podman and containerd write it and checkpointctl reads it.

#![expect(clippy::disallowed_methods, reason = "our own directory, which no container can write")]

use std::fs::File;
use std::io::{BufWriter, Read as _, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use tar::{EntryType, Header};

use crate::Result;
use crate::error::Doing;

/// The directory of CRIU's files.
pub(super) const IMAGES: &str = "checkpoint";

/// Files that there may be; what tells of the others comes first.
const FILES: [&str; 9] = [
    "config.dump",
    "spec.dump",
    "status.dump",
    "status",
    "deleted.files",
    "dump.log",
    "stats-dump",
    "container.log",
    "rootfs-diff.tar",
];

/// Packs what of [`FILES`] is in `content`, and all of [`IMAGES`].
pub(super) fn pack(content: &Path, out: impl Write) -> Result<()> {
    let doing = || "write the archive";
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 20, out));
    for name in FILES {
        append(&mut tar, content, name, now)?;
    }
    let mut header = header(EntryType::Directory, 0o700, now);
    tar.append_data(&mut header, format!("{IMAGES}/"), std::io::empty()).doing(doing)?;
    let dir = content.join(IMAGES);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&dir).doing(|| format!("list {}", dir.display()))? {
        names.extend(entry.doing(|| format!("list {}", dir.display()))?.file_name().into_string());
    }
    names.sort();
    for name in names {
        append(&mut tar, content, &format!("{IMAGES}/{name}"), now)?;
    }
    tar.into_inner().and_then(|mut out| out.flush()).doing(doing)
}

fn append(tar: &mut tar::Builder<impl Write>, content: &Path, name: &str, now: u64) -> Result<()> {
    let path = content.join(name);
    let doing = || format!("pack {}", path.display());
    let file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.doing(doing)?,
    };
    let metadata = file.metadata().doing(doing)?;
    if !metadata.is_file() {
        return Ok(());
    }
    let mut header = header(EntryType::Regular, 0o600, now);
    header.set_size(metadata.len());
    // As long as the header says: CRIU is at its end, but whoever is root can do something to the file.
    let bytes = file.chain(std::io::repeat(0)).take(metadata.len());
    tar.append_data(&mut header, name, bytes).doing(doing)
}

fn header(kind: EntryType, mode: u32, now: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(now);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_is_packed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(IMAGES)).unwrap();
        for (name, text) in [
            ("config.dump", "{}"),
            ("rootfs-diff.tar", ""),
            ("criu.work", "left out"),
            ("checkpoint/pages-1.img", "memory"),
            ("checkpoint/core-1.img", "registers"),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let mut bytes = Vec::new();
        pack(dir.path(), &mut bytes).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            let mode = entry.header().mode().unwrap();
            format!("{} {mode:o} {text}", entry.path().unwrap().display())
        });
        assert_eq!(
            entries.collect::<Vec<_>>(),
            [
                "config.dump 600 {}",
                "rootfs-diff.tar 600 ",
                "checkpoint/ 700 ",
                "checkpoint/core-1.img 600 registers",
                "checkpoint/pages-1.img 600 memory"
            ]
        );
    }
}
