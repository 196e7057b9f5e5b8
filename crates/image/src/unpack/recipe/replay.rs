//! From a recipe and a tree back to the tar stream.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::FileExt as _;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use vaquita_sys::root::openat2;

use crate::{Error, Kind};

use super::{LITERAL, MAGIC, NAME, REPLACED};
use crate::unpack::path::show;

const PATH_LIMIT: usize = 4096;
/// As the writer's.
const WINDOW_LOG: u32 = 23;
const BUFFER: usize = 128 << 10;

/// A tar stream that can be made again.
///
/// Recipe and tree come from hostile bytes by way of the unpacker: whatever they say, nothing is read but regular files
/// below the layer's own directory. Whether the stream is the right one only its digest can tell.
pub(crate) struct Replay {
    home: OwnedFd,
    size: u64,
    /// When a path was replaced (the number of the record), and by which number it is known since.
    replaced: HashMap<Vec<u8>, Vec<(u64, u64)>>,
}

enum Record {
    Literal(Vec<u8>),
    Content { offset: u64, length: u64 },
    Replaced { number: u64, path: Vec<u8> },
}

impl Replay {
    /// Reads the recipe in `home`, the directory of a layer, once.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] where there is none or an empty one, [`Kind::Corrupt`] for a malformed one and for one of more than
    /// `limit` bytes.
    pub(crate) fn open(home: OwnedFd, limit: u64) -> Result<Self, Error> {
        let mut records = Records::open(&home)?;
        let (mut size, mut replaced) = (0_u64, HashMap::<_, Vec<_>>::new());
        while let Some(record) = records.next()? {
            let more = match record {
                Record::Literal(bytes) => bytes.len() as u64,
                Record::Content { length, .. } => length,
                Record::Replaced { number, path } => {
                    replaced.entry(path).or_default().push((records.count, number));
                    0
                }
            };
            size = size.checked_add(more).filter(|size| *size <= limit).ok_or_else(|| damaged("too long"))?;
        }
        Ok(Self { home, size, replaced })
    }

    /// Bytes of the tar stream.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Writes the stream: [`Replay::size`] bytes, or an error.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] where a file is not there any more or is shorter than it was; what `out` returns.
    pub(crate) fn write(&self, out: &mut impl Write) -> Result<(), Error> {
        let told = |e: std::io::Error| Error::io("write(archive)", &e);
        let mut records = Records::open(&self.home)?;
        let mut buffer = vec![0; BUFFER];
        let mut file: Option<(Vec<u8>, File)> = None;
        while let Some(record) = records.next()? {
            match record {
                Record::Literal(bytes) => out.write_all(&bytes).map_err(told)?,
                Record::Replaced { .. } => file = None,
                Record::Content { mut offset, mut length } => {
                    let at = self.place(&records.path, records.count);
                    if file.as_ref().is_none_or(|(path, _)| *path != at) {
                        file = Some((at.clone(), self.file(&at)?));
                    }
                    let Some((_, file)) = &file else { continue };
                    while length > 0 {
                        let most = usize::try_from(length).unwrap_or(BUFFER).min(BUFFER);
                        let count = file.read_at(&mut buffer[..most], offset);
                        let count = count
                            .map_err(|e| Error::io(format!("read(<layer>, {})", show(&records.path)), &e))?;
                        if count == 0 {
                            return Err(changed(&records.path, "is shorter than it was"));
                        }
                        out.write_all(&buffer[..count]).map_err(told)?;
                        offset += count as u64;
                        length -= count as u64;
                    }
                }
            }
        }
        Ok(())
    }

    /// Where that is now, below the layer's directory, which was at `path` when record `count` was written.
    fn place(&self, path: &[u8], count: u64) -> Vec<u8> {
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(end, _)| end);
        let moved = ends.chain([path.len()]).filter_map(|end| {
            let moves = self.replaced.get(&path[..end])?;
            let (when, number) = moves.iter().find(|(when, _)| *when > count)?;
            Some((*when, *number, end))
        });
        match moved.min() {
            Some((_, number, end)) => [format!("{REPLACED}/{number}").as_bytes(), &path[end..]].concat(),
            None => [b"fs/", path].concat(),
        }
    }

    fn file(&self, path: &[u8]) -> Result<File, Error> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        let file = match openat2(self.home.as_fd(), path, flags, Mode::empty(), resolve) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => {
                return Err(changed(path, "is not there any more"));
            }
            Err(e) => return Err(Error::kernel(format!("openat2(<layer>, {})", show(path)), e)),
        };
        let stat = rustix::fs::fstat(&file).map_err(|e| Error::kernel("fstat(<layer>/…)", e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(changed(path, "is no regular file any more"));
        }
        Ok(File::from(file))
    }
}

/// The records of a recipe, one after the other.
struct Records {
    input: BufReader<zstd::stream::read::Decoder<'static, BufReader<File>>>,
    /// Those read so far.
    count: u64,
    /// The file whose content was named last.
    path: Vec<u8>,
}

impl Records {
    #[expect(clippy::disallowed_methods, reason = "one name, not followed")]
    fn open(home: &OwnedFd) -> Result<Self, Error> {
        let none = |why: &str| Error::new(Kind::Unsupported, format!("a layer cannot be made again: {why}"));
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(home, NAME, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => {
                return Err(none("it was unpacked by an older version; remove the image and pull it anew"));
            }
            Err(e) => return Err(Error::kernel("openat(<layer>/recipe)", e)),
        };
        if file.metadata().map_err(|e| Error::io("fstat(<layer>/recipe)", &e))?.len() == 0 {
            return Err(none("too many of its entries replace others of it"));
        }
        let mut input = zstd::stream::read::Decoder::new(file).map_err(|e| unreadable(&e))?;
        input.window_log_max(WINDOW_LOG).map_err(|e| unreadable(&e))?;
        let mut records =
            Self { input: BufReader::with_capacity(LITERAL, input), count: 0, path: Vec::new() };
        let mut magic = [0; MAGIC.len()];
        records.fill(&mut magic)?;
        if magic == MAGIC { Ok(records) } else { Err(damaged("it does not begin as one")) }
    }

    fn next(&mut self) -> Result<Option<Record>, Error> {
        self.count += 1;
        let mut tag = [0];
        self.fill(&mut tag)?;
        Ok(Some(match tag[0] {
            b'L' => Record::Literal(self.bytes(LITERAL)?),
            b'F' => {
                self.path = self.bytes(PATH_LIMIT)?;
                Record::Content { offset: self.number()?, length: self.number()? }
            }
            b'M' => Record::Content { offset: self.number()?, length: self.number()? },
            b'S' => Record::Replaced { number: self.number()?, path: self.bytes(PATH_LIMIT)? },
            b'E' => return Ok(None),
            _ => return Err(damaged("a record of unknown kind")),
        }))
    }

    fn bytes(&mut self, limit: usize) -> Result<Vec<u8>, Error> {
        let length = usize::try_from(self.number()?).ok().filter(|length| *length <= limit);
        let mut bytes = vec![0; length.ok_or_else(|| damaged("a record that is too long"))?];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn number(&mut self) -> Result<u64, Error> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.fill(&mut byte)?;
            number |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(damaged("a number that is too long"))
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), Error> {
        self.input.read_exact(out).map_err(|e| unreadable(&e))
    }
}

fn unreadable(error: &std::io::Error) -> Error {
    Error::io("read(<layer>/recipe)", error)
}

fn damaged(why: &str) -> Error {
    Error::corrupt(format!("the recipe of a layer is damaged: {why}"))
}

fn changed(path: &[u8], how: &str) -> Error {
    Error::corrupt(format!("{} of an unpacked layer {how}: remove the image and pull it anew", show(path)))
}
