//! From a tar stream to entries (pure).
//!
//! Readers of tar disagree in many corners, and an archive that two readers see two ways hides something from one of them.
//! This one reads as Go's archive/tar does, which registries and builders use, and refuses what GNU tar or
//! Python's tarfile would take for something else. It never reads ahead of what it returns, and keeps no more than
//! [`HEADER_LIMIT`] bytes of what describes an entry.

mod header;
mod pax;
#[cfg(test)]
mod peers;
mod sparse;

use std::io::Read;

use header::{Format, Header};
use pax::Records;

use crate::Error;
use crate::unpack::path::show;

/// Bytes that the description of one entry may take: long names, extended headers, maps of sparse files.
const HEADER_LIMIT: u64 = 1 << 20;

const BLOCK: usize = 512;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Block,
    Char,
    Directory,
    Fifo,
    File,
    HardLink,
    Symlink,
}

/// An entry of the archive; its content is read from the [`Reader`] next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Type,
    /// As the archive writes it.
    pub(crate) path: Vec<u8>,
    /// The target of a link.
    pub(crate) link: Vec<u8>,
    /// Permission bits, with set-uid, set-gid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970, and nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// Major and minor number.
    pub(crate) device: (u32, u32),
    /// Bytes of the file, with its holes.
    pub(crate) size: u64,
    /// Where the file's content goes, as offset and length, in order; the rest are holes.
    pub(crate) pieces: Vec<(u64, u64)>,
    /// Extended attributes, of whatever kind.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// Whether what the stream has of the file is all of it, in one piece.
    pub(crate) fn is_whole(&self) -> bool {
        self.pieces[..] == [(0, self.size)]
    }
}

/// A tar stream that is being read.
pub(crate) struct Reader<R> {
    inner: R,
    /// Bytes of the entry's content that were not read, and of the padding behind.
    content: u64,
    padding: u64,
    /// Bytes that the description of this entry may still take.
    left: u64,
}

/// What came before the header that it is about.
#[derive(Default)]
struct Before {
    pax: Option<Records>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, content: 0, padding: 0, left: HEADER_LIMIT }
    }

    /// Goes on to the next entry, past what was not read of this one. `None` at the archive's end.
    ///
    /// # Errors
    /// [`Corrupt`](crate::Kind::Corrupt) for what is no tar archive, or one that is cut off; [`Invalid`](crate::Kind::Invalid) for an entry with values that
    /// nothing can have; [`Unsupported`](crate::Kind::Unsupported) for kinds of entries that are left out on purpose.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Error> {
        self.skip(self.content + self.padding)?;
        (self.content, self.padding, self.left) = (0, 0, HEADER_LIMIT);
        let mut before = Before::default();
        loop {
            let Some(header) = self.header()? else {
                return match before {
                    Before { pax: None, name: None, link: None } => Ok(None),
                    _ => Err(unsound("it ends between an extended header and its entry")),
                };
            };
            let twice =
                |there: bool| if there { Err(unsound("an entry has two extended headers")) } else { Ok(()) };
            match header.kind() {
                b'x' => {
                    twice(before.pax.is_some())?;
                    before.pax = Some(Records::parse(&self.description(&header)?)?);
                }
                b'g' => Records::parse(&self.description(&header)?)?.check_global()?,
                b'L' => {
                    twice(before.name.is_some())?;
                    before.name = Some(until_nul(&self.description(&header)?).to_vec());
                }
                b'K' => {
                    twice(before.link.is_some())?;
                    before.link = Some(until_nul(&self.description(&header)?).to_vec());
                }
                _ => return self.entry(&header, before).map(Some),
            }
        }
    }

    /// Reads content of the entry; 0 at its end.
    pub(crate) fn read(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        let most = usize::try_from(self.content).unwrap_or(usize::MAX).min(out.len());
        if most == 0 {
            return Ok(0);
        }
        let count = loop {
            match self.inner.read(&mut out[..most]) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                other => break other.map_err(|e| unsound(&e.to_string()))?,
            }
        };
        if count == 0 {
            return Err(unsound("it is cut off in the content of an entry"));
        }
        self.content -= count as u64;
        Ok(count)
    }

    /// Reads the stream to its end, whatever comes after the archive's.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        std::io::copy(&mut self.inner, &mut std::io::sink()).map_err(|e| unsound(&e.to_string()))?;
        Ok(())
    }

    /// The next header; `None` at the end: two blocks of zeros, or no more bytes.
    fn header(&mut self) -> Result<Option<Header>, Error> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block != [0; BLOCK] {
            return Header::parse(block).map(Some);
        }
        match self.block()? {
            Some(second) if second != [0; BLOCK] => {
                Err(unsound("an empty block is followed by another entry"))
            }
            _ => Ok(None),
        }
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        self.describes(BLOCK as u64)?;
        let mut block = [0; BLOCK];
        match self.fill(&mut block)? {
            0 => Ok(None),
            BLOCK => Ok(Some(block)),
            _ => Err(unsound("it is cut off in a header")),
        }
    }

    /// Reads as much as there is.
    fn fill(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while filled < out.len() {
            match self.inner.read(&mut out[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(unsound(&e.to_string())),
            }
        }
        Ok(filled)
    }

    fn describes(&mut self, bytes: u64) -> Result<(), Error> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or_else(|| unsound("the description of an entry is larger than 1 MiB"))?;
        Ok(())
    }

    /// The content of a header that describes another.
    fn description(&mut self, header: &Header) -> Result<Vec<u8>, Error> {
        let size = header.size()?;
        let padded =
            size.checked_next_multiple_of(BLOCK as u64).ok_or_else(|| unsound("a size is too large"))?;
        self.describes(padded)?;
        let mut text = vec![0; usize::try_from(padded).map_err(|_| unsound("a size is too large"))?];
        if self.fill(&mut text)? != text.len() {
            return Err(unsound("it is cut off in an extended header"));
        }
        text.truncate(usize::try_from(size).unwrap_or(0));
        Ok(text)
    }

    fn entry(&mut self, header: &Header, before: Before) -> Result<Entry, Error> {
        let pax = before.pax.unwrap_or_default();
        let one = |long: Option<Vec<u8>>, extended: Option<&[u8]>, own: Vec<u8>| match (long, extended) {
            (Some(_), Some(_)) => Err(unsound("an entry has two long names")),
            (Some(long), None) => Ok(long),
            (None, Some(extended)) => Ok(extended.to_vec()),
            (None, None) => Ok(own),
        };
        // A sparse file's name in the header is made up.
        let extended = pax.sparse(b"name").or_else(|| pax.value(b"path"));
        let path = one(before.name, extended, header.path())?;
        let link = one(before.link, pax.value(b"linkpath"), header.link())?;
        let named = |e: Error| e.context(format!("layer entry {}", show(&path)));
        let extended = pax.number(b"size").map_err(named)?;
        let on_tape = extended.map_or_else(|| header.size(), Ok).map_err(named)?;
        let kind = kind(header, &path, on_tape).map_err(named)?;
        // GNU tar skips these bytes, others do not; what the header itself says nobody believes.
        if kind == Type::HardLink && extended.unwrap_or(0) != 0 {
            return Err(named(unsound("a hard link has content")));
        }
        let mut entry = Entry {
            kind,
            link,
            mode: header.mode().map_err(named)?,
            uid: id("uid", pax.number(b"uid").map_err(named)?.map_or_else(|| header.uid(), Ok))
                .map_err(named)?,
            gid: id("gid", pax.number(b"gid").map_err(named)?.map_or_else(|| header.gid(), Ok))
                .map_err(named)?,
            mtime: pax
                .time()
                .map_err(named)?
                .map_or_else(|| header.mtime().map(|t| (t, 0)), Ok)
                .map_err(named)?,
            device: if matches!(kind, Type::Block | Type::Char) {
                header.device().map_err(named)?
            } else {
                (0, 0)
            },
            size: on_tape,
            pieces: vec![(0, on_tape)],
            xattrs: pax.xattrs(),
            path: Vec::new(),
        };
        if kind == Type::File {
            self.content = on_tape;
            self.padding = (BLOCK as u64 - on_tape % BLOCK as u64) % BLOCK as u64;
            self.find_holes(header, &pax, &mut entry).map_err(named)?;
        } else if pax.all_sparse().next().is_some() {
            return Err(named(unsound("what is no file has holes")));
        } else {
            (entry.size, entry.pieces) = (0, Vec::new());
        }
        entry.path = path;
        Ok(entry)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), Error> {
        let skipped = std::io::copy(&mut self.inner.by_ref().take(bytes), &mut std::io::sink());
        match skipped.map_err(|e| unsound(&e.to_string()))? {
            // Who wrote the archive may have left out the padding at its very end.
            count if count == bytes || count >= bytes - self.padding => Ok(()),
            _ => Err(unsound("it is cut off in the content of an entry")),
        }
    }
}

/// What the entry is. Only files have content; for the others readers disagree on whether it is skipped.
fn kind(header: &Header, path: &[u8], size: u64) -> Result<Type, Error> {
    let kind = match header.kind() {
        // Before ustar, a directory was a file with a slash at its end.
        0 | b'0' if path.ends_with(b"/") => Type::Directory,
        0 | b'0' | b'7' => Type::File,
        // What it says of the size is the other file's.
        b'1' => return Ok(Type::HardLink),
        b'2' => Type::Symlink,
        b'3' => Type::Char,
        b'4' => Type::Block,
        b'5' => Type::Directory,
        b'6' => Type::Fifo,
        b'S' if header.format() == Format::Gnu => Type::File,
        other => {
            return Err(Error::invalid(format!("unknown entry type {:?}", char::from(other))));
        }
    };
    if kind != Type::File && size != 0 {
        return Err(unsound("an entry that is no file has content"));
    }
    Ok(kind)
}

/// A user or group id: 4294967295 means none to the kernel.
fn id(what: &str, number: Result<u64, Error>) -> Result<u32, Error> {
    let number = number?;
    let id = u32::try_from(number).ok().filter(|id| *id != u32::MAX);
    id.ok_or_else(|| Error::invalid(format!("malformed {what}: {number} is no id")))
}

fn until_nul(text: &[u8]) -> &[u8] {
    text.split(|b| *b == 0).next().unwrap_or_default()
}

/// The bytes are at fault, never the kernel.
fn unsound(why: &str) -> Error {
    Error::corrupt(format!("not a sound tar archive: {why}"))
}
