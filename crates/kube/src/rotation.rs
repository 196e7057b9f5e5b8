//! Log files that grow too long: renamed, compressed, and the oldest removed, as kubelet does it.
//!
//! The log of a container is `<log>`, which is being written, and `<log>.<YYYYMMDD-HHMMSS>[.gz]`, which are older parts
//! of it. With them all a log takes five files at most. A CRI server that rotates by itself gives the same names.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use crate::{Error, Result};

/// Bytes that a file may have before it is rotated (kubelet's `containerLogMaxSize`).
pub const MAX_SIZE: u64 = 10 << 20;
/// Files that a log has at most (kubelet's `containerLogMaxFiles`).
pub const MAX_FILES: usize = 5;

const COMPRESSED: &str = "gz";
const UNFINISHED: &str = "tmp";

/// The files of a log, the oldest part first, the one that is being written last (whether it exists or not).
pub fn files(log: &Path) -> Vec<PathBuf> {
    let all = parts(log);
    let mut files: Vec<PathBuf> = all.iter().filter(|part| in_use(part, &all)).cloned().collect();
    files.push(log.to_owned());
    files
}

/// Opens one of the files of a log to be read as it was written.
///
/// # Errors
/// It is not there (any more), or cannot be read.
pub fn open(file: &Path) -> std::io::Result<Box<dyn Read + Send>> {
    let opened = File::open(file)?;
    Ok(match file.extension().is_some_and(|extension| extension == COMPRESSED) {
        true => Box::new(MultiGzDecoder::new(opened)),
        false => Box::new(opened),
    })
}

/// Removes a log with all its parts.
pub(crate) fn remove(log: &Path) {
    for file in parts(log).into_iter().chain([log.to_owned()]) {
        let _ = std::fs::remove_file(file);
    }
}

/// Whether it is time to rotate a log: it is too long, or somebody has removed it from under its writer.
pub(crate) fn is_due(log: &Path, max_size: u64) -> bool {
    match std::fs::metadata(log) {
        Ok(metadata) => metadata.len() >= max_size,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Makes room for one more part: removes what is too old, and compresses what is complete.
///
/// # Errors
/// What could not be done to which file.
pub(crate) fn make_room(log: &Path, max_files: usize) -> Result<()> {
    let all = parts(log);
    let (mut kept, unused): (Vec<PathBuf>, Vec<PathBuf>) =
        all.iter().cloned().partition(|part| in_use(part, &all));
    // Beside these there will be the one that is renamed next, and the new one.
    let old = kept.len().saturating_sub(max_files.saturating_sub(2));
    for file in unused.into_iter().chain(kept.drain(..old)) {
        std::fs::remove_file(&file).map_err(|error| Error::io("remove", &file, &error))?;
    }
    kept.iter().filter(|part| !has_extension(part, COMPRESSED)).try_for_each(|part| compress(part))
}

/// The name that a log gets when it is rotated at a time.
pub(crate) fn rotated_name(log: &Path, at: jiff::Timestamp) -> PathBuf {
    with_suffix(log, &at.strftime("%Y%m%d-%H%M%S").to_string())
}

fn compress(part: &Path) -> Result<()> {
    let unfinished = with_suffix(part, UNFINISHED);
    let work = || -> std::io::Result<()> {
        let mut from = File::open(part)?;
        let mut to = GzEncoder::new(File::create(&unfinished)?, Compression::default());
        std::io::copy(&mut from, &mut to)?;
        to.finish()?.set_permissions(from.metadata()?.permissions())?;
        std::fs::rename(&unfinished, with_suffix(part, COMPRESSED))?;
        std::fs::remove_file(part)
    };
    work().map_err(|error| {
        let _ = std::fs::remove_file(&unfinished);
        Error::io("compress", part, &error)
    })
}

/// Everything that begins as parts of this log do, sorted: the oldest first.
fn parts(log: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    let mut parts: Vec<PathBuf> = ours.map(|entry| entry.path()).collect();
    parts.sort();
    parts
}

/// Whether it is a part of the log, and not what a rotation left that was interrupted.
fn in_use(part: &Path, all: &[PathBuf]) -> bool {
    !has_extension(part, UNFINISHED)
        && (has_extension(part, COMPRESSED) || !all.contains(&with_suffix(part, COMPRESSED)))
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|own| own == extension)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(log: &Path) -> String {
        let mut text = String::new();
        for file in files(log) {
            if let Ok(mut opened) = open(&file) {
                opened.read_to_string(&mut text).unwrap();
            }
        }
        text
    }

    #[test]
    fn rotations_keep_the_order_and_a_bound() {
        let dir = vaquita_testing::temp_dir();
        let log = dir.path().join("0.log");
        std::fs::write(dir.path().join("0.log.20000101-000000.tmp"), "half").unwrap();
        std::fs::write(dir.path().join("1.log"), "another").unwrap();
        for number in 0..7 {
            std::fs::write(&log, format!("{number}\n")).unwrap();
            assert!(is_due(&log, 2) && !is_due(&log, 3));
            make_room(&log, MAX_FILES).unwrap();
            let at = jiff::Timestamp::from_second(1_800_000_000 + number).unwrap();
            std::fs::rename(&log, rotated_name(&log, at)).unwrap();
            assert!(is_due(&log, 2), "a log that is gone must be made again");
        }
        std::fs::write(&log, "7\n").unwrap();
        assert_eq!(read_all(&log), "3\n4\n5\n6\n7\n");
        let names: Vec<String> =
            files(&log).iter().map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect();
        assert_eq!(names.len(), MAX_FILES);
        assert_eq!(names.iter().filter(|name| name.ends_with(".gz")).count(), 3);
        remove(&log);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "the other container's log is left");
    }

    #[test]
    fn what_an_interrupted_rotation_left_is_no_part_of_the_log() {
        let dir = vaquita_testing::temp_dir();
        let log = dir.path().join("0.log");
        for (name, text) in
            [("0.log", "new\n"), ("0.log.20260101-000000", "old\n"), ("0.log.20260101-000000.gz.tmp", "x")]
        {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        assert_eq!(read_all(&log), "old\nnew\n");
        make_room(&log, MAX_FILES).unwrap();
        assert_eq!(read_all(&log), "old\nnew\n");
        // Compressed, but not yet removed.
        std::fs::write(dir.path().join("0.log.20260101-000000"), "old\n").unwrap();
        assert_eq!(read_all(&log), "old\nnew\n");
    }
}
