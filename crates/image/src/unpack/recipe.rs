//! What the files of an unpacked layer do not keep of its tar stream, so that the stream can be made again byte for byte.
//!
//! `layers/<n>/recipe` is a zstd stream of [`MAGIC`] and records; numbers are LEB128:
//!
//! * `L` length, bytes: headers, padding, and whatever else is not the content of a file
//! * `F` length, path, offset, length: a part of this file's content
//! * `M` offset, length: another part of the file named last
//! * `S` number, length, path: here an entry replaced what stood at this path; that is `layers/<n>/replaced/<number>` since
//! * `E`: the end
//!
//! An empty recipe says that the stream cannot be made again: too much of the layer replaces other parts of it.

mod replay;

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Write};
use std::rc::Rc;

use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::Error;

pub(crate) use replay::Replay;

const NAME: &str = "recipe";
const REPLACED: &str = "replaced";
const MAGIC: &[u8] = b"vaquita layer recipe 1\n";
/// Bytes of one literal.
const LITERAL: usize = 64 << 10;
/// Fast, and headers shrink to a tenth all the same.
const LEVEL: i32 = 1;
/// Entries that may replace others, and the bytes of their paths: whoever reads a recipe keeps them in memory.
const REPLACED_LIMIT: u64 = 10_000;
const REPLACED_BYTES: usize = 1 << 20;

/// A recipe that is being written, and where its layer's files go.
pub(super) struct Recipe {
    /// `layers/<n>`.
    home: OwnedFd,
    state: RefCell<State>,
}

struct State {
    /// `None` when the stream cannot be made again.
    out: Option<zstd::stream::write::Encoder<'static, File>>,
    literal: Vec<u8>,
    content: Option<Content>,
    replaced: u64,
    replaced_bytes: usize,
    failed: Option<std::io::Error>,
}

/// A file whose content is being read.
struct Content {
    path: Vec<u8>,
    /// The path was written down.
    named: bool,
    /// Where in the file the next bytes go.
    next: u64,
    /// Offset and length of what was read and not written down.
    run: (u64, u64),
}

impl Recipe {
    /// Begins the recipe of the layer in `home`.
    #[expect(clippy::disallowed_methods, reason = "one name, not followed")]
    pub(super) fn create(home: OwnedFd) -> Result<Rc<Self>, Error> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&home, NAME, flags, Mode::from_raw_mode(0o600))
            .map_err(|e| Error::kernel("openat(<layer>/recipe)", e))?;
        let mut out = zstd::stream::write::Encoder::new(File::from(file), LEVEL).map_err(|e| failed(&e))?;
        out.write_all(MAGIC).map_err(|e| failed(&e))?;
        let state = State {
            out: Some(out),
            literal: Vec::with_capacity(LITERAL),
            content: None,
            replaced: 0,
            replaced_bytes: 0,
            failed: None,
        };
        Ok(Rc::new(Self { home, state: RefCell::new(state) }))
    }

    /// What is read from now on is the content of this file, from its beginning.
    pub(super) fn begin_content(&self, path: &[u8]) {
        self.state.borrow_mut().content =
            Some(Content { path: path.to_vec(), named: false, next: 0, run: (0, 0) });
    }

    /// What is read from now on goes to this offset of the file: it has holes.
    pub(super) fn seek(&self, offset: u64) {
        if let Some(content) = &mut self.state.borrow_mut().content {
            content.next = offset;
        }
    }

    /// What is read from now on is no content.
    pub(super) fn end_content(&self) {
        let mut state = self.state.borrow_mut();
        state.flush_run();
        state.content = None;
    }

    /// Keeps what stands at `path`, which is `name` in `dir`, in another place. `false`: it is not needed.
    pub(super) fn set_aside(&self, dir: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<bool, Errno> {
        let mut state = self.state.borrow_mut();
        if state.out.is_none() {
            return Ok(false);
        }
        state.replaced_bytes += path.len();
        if state.replaced == REPLACED_LIMIT || state.replaced_bytes > REPLACED_BYTES {
            state.give_up();
            return Ok(false);
        }
        if state.replaced == 0 {
            match rustix::fs::mkdirat(&self.home, REPLACED, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e),
            }
        }
        let number = state.replaced;
        rustix::fs::renameat(dir, name, &self.home, format!("{REPLACED}/{number}"))?;
        state.replaced += 1;
        state.flush_literal();
        state.record(b'S', &[number], Some(path));
        Ok(true)
    }

    /// Writes the end.
    ///
    /// # Errors
    /// The first that was met since the beginning.
    pub(super) fn finish(&self) -> Result<(), Error> {
        let mut state = self.state.borrow_mut();
        state.flush_literal();
        state.put(b"E");
        if let Some(error) = state.failed.take() {
            return Err(failed(&error));
        }
        match state.out.take().map(zstd::stream::write::Encoder::finish) {
            Some(Err(error)) => Err(failed(&error)),
            Some(Ok(_)) | None => Ok(()),
        }
    }
}

impl State {
    fn saw(&mut self, mut bytes: &[u8]) {
        if self.out.is_none() {
            return;
        }
        if self.content.is_some() {
            return self.saw_content(bytes.len() as u64);
        }
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(LITERAL - self.literal.len()));
            self.literal.extend_from_slice(now);
            bytes = later;
            if self.literal.len() == LITERAL {
                self.flush_literal();
            }
        }
    }

    fn saw_content(&mut self, count: u64) {
        let Some(content) = &mut self.content else { return };
        let (from, length) = content.run;
        if length > 0 && from + length != content.next {
            self.flush_run();
        }
        let Some(content) = &mut self.content else { return };
        if content.run.1 == 0 {
            content.run.0 = content.next;
        }
        content.run.1 += count;
        content.next += count;
    }

    fn flush_run(&mut self) {
        let Some(content) = &mut self.content else { return };
        let (from, length) = std::mem::take(&mut content.run);
        if length == 0 {
            return;
        }
        let path = (!std::mem::replace(&mut content.named, true)).then(|| std::mem::take(&mut content.path));
        self.flush_literal();
        match path {
            Some(path) => {
                self.record(b'F', &[], Some(&path));
                self.numbers(&[from, length]);
            }
            None => self.record(b'M', &[from, length], None),
        }
    }

    fn flush_literal(&mut self) {
        if !self.literal.is_empty() {
            let literal = std::mem::take(&mut self.literal);
            self.record(b'L', &[], Some(&literal));
            self.literal = literal;
            self.literal.clear();
        }
    }

    fn record(&mut self, tag: u8, numbers: &[u64], bytes: Option<&[u8]>) {
        self.put(&[tag]);
        self.numbers(numbers);
        if let Some(bytes) = bytes {
            self.numbers(&[bytes.len() as u64]);
            self.put(bytes);
        }
    }

    fn numbers(&mut self, numbers: &[u64]) {
        for number in numbers {
            let mut rest = *number;
            while rest >= 0x80 {
                self.put(&[(rest & 0x7f) as u8 | 0x80]);
                rest >>= 7;
            }
            self.put(&[(rest & 0x7f) as u8]);
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        if let (Some(out), None) = (&mut self.out, &self.failed) {
            self.failed = out.write_all(bytes).err();
        }
    }

    /// Leaves an empty recipe.
    fn give_up(&mut self) {
        if let Some(out) = self.out.take() {
            let emptied = rustix::fs::ftruncate(out.get_ref(), 0);
            self.failed = self.failed.take().or(emptied.err().map(std::io::Error::from));
        }
    }
}

/// A tar stream of which a recipe is written while it is read. Whoever reads must not read ahead.
pub(super) struct Recorder<R> {
    inner: R,
    recipe: Rc<Recipe>,
}

impl<R> Recorder<R> {
    pub(super) fn new(inner: R, recipe: Rc<Recipe>) -> Self {
        Self { inner, recipe }
    }
}

impl<R: Read> Read for Recorder<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(out)?;
        // What fails here is told at the end: it is no fault of the stream.
        self.recipe.state.borrow_mut().saw(&out[..count]);
        Ok(count)
    }
}

fn failed(error: &std::io::Error) -> Error {
    Error::io("write(<layer>/recipe)", error)
}
