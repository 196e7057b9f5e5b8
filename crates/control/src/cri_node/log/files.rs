//! The files of a log: the one that is written to, and those that were rotated away, `<log>.<YYYYMMDD-HHMMSS>` with or without `.gz`.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use flate2::read::MultiGzDecoder;
use jiff::Timestamp;

use super::file_name;

/// Read at once, in bytes.
const CHUNK: usize = 64 << 10;

/// Reads a log through all its files, and goes on where it is written to.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    /// Older files, the oldest first.
    older: VecDeque<Piece>,
    /// The file that is written to, and where it was read to.
    newest: Option<(File, u64)>,
    /// Whether `newest` was there before, so that a new file is read from its beginning.
    skip_lines: u64,
}

/// A file that does not change any more.
#[derive(Debug)]
enum Piece {
    Packed(Box<MultiGzDecoder<File>>),
    Plain(File),
}

impl Read for Piece {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Packed(file) => file.read(buffer),
            Self::Plain(file) => file.read(buffer),
        }
    }
}

impl Reader {
    /// Begins so many lines before the end, or at the oldest file that has something since then.
    pub(super) fn open(path: &Path, tail: Option<u64>, since: Option<Timestamp>) -> io::Result<Self> {
        let newest = match File::open(path) {
            Ok(file) => Some(file),
            // It is being rotated, or nothing was written.
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let since = since.map(SystemTime::from);
        let mut older: VecDeque<Piece> = rotated(path)?
            .into_iter()
            .filter_map(|path| {
                let file = File::open(&path).ok()?;
                let old = since.is_some_and(|since| {
                    file.metadata().and_then(|meta| meta.modified()).is_ok_and(|at| at < since)
                });
                let packed = path.extension().is_some_and(|end| end == "gz");
                (!old).then(|| {
                    if packed {
                        Piece::Packed(Box::new(MultiGzDecoder::new(file)))
                    } else {
                        Piece::Plain(file)
                    }
                })
            })
            .collect();
        let mut this = Self {
            path: path.to_owned(),
            older: VecDeque::new(),
            newest: newest.map(|file| (file, 0)),
            skip_lines: 0,
        };
        match tail {
            None => this.older = older,
            Some(lines) => this.skip(lines, &mut older)?,
        }
        Ok(this)
    }

    /// Goes so many lines back from the end.
    fn skip(&mut self, lines: u64, older: &mut VecDeque<Piece>) -> io::Result<()> {
        let mut left = lines;
        if let Some((file, at)) = &mut self.newest {
            (*at, left) = back(file, left)?;
        }
        while left > 0
            && let Some(piece) = older.pop_back()
        {
            match piece {
                Piece::Plain(mut file) => {
                    let at;
                    (at, left) = back(&mut file, left)?;
                    file.seek(SeekFrom::Start(at))?;
                    self.older.push_front(Piece::Plain(file));
                }
                Piece::Packed(mut file) => {
                    let count = count(&mut file)?;
                    let mut raw = file.into_inner();
                    raw.seek(SeekFrom::Start(0))?;
                    self.skip_lines = count.saturating_sub(left);
                    left = left.saturating_sub(count);
                    self.older.push_front(Piece::Packed(Box::new(MultiGzDecoder::new(raw))));
                }
            }
        }
        Ok(())
    }

    /// The next bytes; `None` where the end of what is there has been reached.
    pub(super) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; CHUNK];
        while let Some(piece) = self.older.front_mut() {
            let length = piece.read(&mut buffer)?;
            if length == 0 {
                self.older.pop_front();
                self.skip_lines = 0;
                continue;
            }
            buffer.truncate(length);
            drop_lines(&mut buffer, &mut self.skip_lines);
            return Ok(Some(buffer));
        }
        loop {
            let Some((file, at)) = &mut self.newest else {
                match File::open(&self.path) {
                    Ok(file) => self.newest = Some((file, 0)),
                    Err(_) => return Ok(None),
                }
                continue;
            };
            if file.metadata()?.len() < *at {
                // Somebody has emptied it.
                *at = 0;
            }
            file.seek(SeekFrom::Start(*at))?;
            let length = file.read(&mut buffer)?;
            if length > 0 {
                *at += length as u64;
                buffer.truncate(length);
                return Ok(Some(buffer));
            }
            if !replaced(file, &self.path) {
                return Ok(None);
            }
            // The old file is read to its end; the new one begins.
            self.newest = None;
        }
    }

    /// Whether a read would give something.
    pub(super) fn has_more(&self) -> bool {
        match &self.newest {
            None => self.path.exists(),
            Some((file, at)) => {
                file.metadata().is_ok_and(|meta| meta.len() != *at) || replaced(file, &self.path)
            }
        }
    }
}

/// Whether another file is at the path by now.
fn replaced(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(theirs)) = (file.metadata(), std::fs::metadata(path)) else { return false };
    (ours.dev(), ours.ino()) != (theirs.dev(), theirs.ino())
}

/// Where the last so many lines of a file begin, and how many of them it does not have.
fn back(file: &mut File, lines: u64) -> io::Result<(u64, u64)> {
    let end = file.metadata()?.len();
    if lines == 0 {
        return Ok((end, 0));
    }
    let mut buffer = vec![0; CHUNK];
    let (mut at, mut found) = (end, 0);
    while at > 0 {
        let length = at.min(CHUNK as u64);
        at -= length;
        let part = &mut buffer[..usize::try_from(length).unwrap_or(CHUNK)];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(part)?;
        for (index, byte) in part.iter().enumerate().rev() {
            if *byte == b'\n' {
                // The one at the very end ends the last line; that before the lines that are wanted is one more.
                if found == lines {
                    return Ok((at + index as u64 + 1, 0));
                }
                found += 1;
            }
        }
    }
    Ok((0, lines - found))
}

fn count(file: &mut impl Read) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut lines = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(lines),
            length => lines += buffer[..length].iter().filter(|byte| **byte == b'\n').count() as u64,
        }
    }
}

fn drop_lines(buffer: &mut Vec<u8>, lines: &mut u64) {
    while *lines > 0 {
        match buffer.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                buffer.drain(..=end);
                *lines -= 1;
            }
            None => return buffer.clear(),
        }
    }
}

/// The files that were rotated away, the oldest first.
fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(dir) = path.parent() else { return Ok(Vec::new()) };
    let start = format!("{}.", file_name(path));
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    // By time; where one is being compressed both are there, and the plain one is whole.
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    for entry in entries {
        let path = entry?.path();
        let name = file_name(&path);
        let Some(stamp) = name.strip_prefix(&start) else { continue };
        let packed = stamp.strip_suffix(".gz");
        let stamp = packed.unwrap_or(stamp);
        if !is_stamp(stamp) || (packed.is_some() && found.contains_key(stamp)) {
            continue;
        }
        found.insert(stamp.to_owned(), path);
    }
    Ok(found.into_values().collect())
}

/// `YYYYMMDD-HHMMSS`
fn is_stamp(text: &str) -> bool {
    text.len() == 15
        && text
            .bytes()
            .enumerate()
            .all(|(at, byte)| if at == 8 { byte == b'-' } else { byte.is_ascii_digit() })
}

#[cfg(test)]
mod tests;
