//! Unpacks one layer into a directory; runs as a process of its own.
//!
//! The process gets three descriptors and nothing else: the compressed layer on 0, a pipe for the result on 1, and the
//! layer's directory on 2 (its first act is to move that one away and to put `/dev/null` there). It fills `fs` there, and
//! writes `recipe`, from which the layer can be made again. It needs no path of the host, and has none once it is confined
//! (`confine.rs`). Three threads work at the same time: one reads and inflates, one hashes what comes out, one writes files.

mod apply;
mod calls;
mod confine;
#[cfg(test)]
mod corpus;
mod inflate;
mod job;
mod path;
mod reader;
mod recipe;
mod tree;

use std::fs::File;
use std::io::{Read, Write};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Hasher};
use crate::{Error, Kind};

use recipe::{Recipe, Recorder};

pub use confine::confine;
pub(crate) use inflate::{open as inflate_stream, zstd_window};
pub(crate) use job::{Job, remove_tree};
pub(crate) use reader::{Reader, Type};
pub(crate) use recipe::Replay;

/// The name (`argv[0]`) under which the binary calls [`main`].
pub const PROGRAM: &str = "vaquita-unpack";

/// Buffers that wait between two threads.
const QUEUE: usize = 4;

/// Bounds of one layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of the unpacked stream and of file content.
    pub(crate) bytes: u64,
    /// Entries.
    pub(crate) entries: u64,
}

/// What one layer turned out to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unpacked {
    /// Digest of the uncompressed stream.
    pub(crate) diff_id: Digest,
    /// Bytes on disk: content rounded up to blocks.
    pub(crate) bytes: u64,
    /// Files and directories.
    pub(crate) inodes: u64,
    /// Directories that the layer uses without describing them, in hex; they take after the layers below.
    pub(crate) implicit: Vec<String>,
}

/// What the process says at its end.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    Done(Unpacked),
    Failed { kind: String, message: String },
}

/// The unpacking process: reads a layer from standard input, and fills the directory whose descriptor it was given.
///
/// Called first thing by a binary that was started as [`PROGRAM`]; nothing else may run in that process. The exit
/// status is 0 also when the layer is refused: the result goes to standard output.
#[must_use]
pub fn main() -> ExitCode {
    let report = Report::from(prepare().and_then(|(dir, limits)| {
        let input = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
            .map_err(|e| Error::kernel("fcntl(0, F_DUPFD_CLOEXEC)", e))?;
        run(File::from(input), dir, limits)
    }));
    let text = serde_json::to_vec(&report).unwrap_or_default();
    match std::io::stdout().write_all(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Takes the directory from descriptor 2, reads the limits, and gives up what the work does not need.
#[expect(clippy::disallowed_methods, reason = "the host's own /dev")]
fn prepare() -> Result<(OwnedFd, Limits), Error> {
    let call = |what: &'static str| move |e: Errno| Error::kernel(what, e);
    let dir = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3)
        .map_err(call("fcntl(2, F_DUPFD_CLOEXEC)"))?;
    let null =
        rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()).map_err(call("open(\"/dev/null\")"))?;
    rustix::stdio::dup2_stderr(&null).map_err(call("dup2(/dev/null, 2)"))?;
    let mut numbers = std::env::args().skip(1).map(|a| a.parse::<u64>().ok());
    let (Some(Some(bytes)), Some(Some(entries))) = (numbers.next(), numbers.next()) else {
        return Err(Error::invalid(format!("usage: {PROGRAM} BYTES ENTRIES < LAYER 2< DIRECTORY")));
    };
    Ok((confine(dir, bytes)?, Limits { bytes, entries }))
}

/// Unpacks `input` into the layer's directory `home` and says what it was.
#[expect(clippy::disallowed_methods, reason = "one name, not followed")]
pub(crate) fn run(input: File, home: OwnedFd, limits: Limits) -> Result<Unpacked, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fs = rustix::fs::openat(&home, "fs", flags, Mode::empty())
        .map_err(|e| Error::kernel("openat(<layer>/fs)", e))?;
    let recipe = Recipe::create(home)?;
    let (to_apply, applied) = sync_channel(QUEUE);
    let (to_hash, hashed) = sync_channel(QUEUE);
    std::thread::scope(|scope| {
        let inflating = scope.spawn(move || inflate_all(input, limits.bytes, &[to_apply, to_hash]));
        let hashing = scope.spawn(move || hash_all(&hashed));
        let stream = Recorder::new(Stream::new(applied), Rc::clone(&recipe));
        let tree = apply::apply(stream, tree::Tree::new(fs, Rc::clone(&recipe)), limits);
        // The first cause is told: an inflater that failed makes the tar look cut off.
        let died = |_| Error::corrupt("a thread of the unpacker panicked");
        inflating.join().map_err(died)??;
        let diff_id = hashing.join().map_err(died)?;
        let tree = tree?;
        recipe.finish()?;
        Ok(Unpacked { diff_id, bytes: tree.bytes, inodes: tree.inodes, implicit: tree.implicit() })
    })
}

/// Inflates everything, piece by piece, into few buffers that are used again and again.
fn inflate_all(input: File, limit: u64, outputs: &[SyncSender<Piece>]) -> Result<(), Error> {
    let mut inflated = inflate::open(input)?;
    let mut buffers: Vec<Arc<Vec<u8>>> = Vec::new();
    let mut total = 0;
    loop {
        let free = buffers.iter_mut().position(|buffer| Arc::get_mut(buffer).is_some());
        let mut buffer = free.map_or_else(|| Arc::new(vec![0; inflate::CHUNK]), |at| buffers.swap_remove(at));
        // Nobody else has it: see the line above.
        let Some(space) = Arc::get_mut(&mut buffer) else { continue };
        let count = fill(&mut inflated, space).map_err(|e| inflate::explain(&e))?;
        if count == 0 {
            return Ok(());
        }
        total += count as u64;
        if total > limit {
            return Err(Error::invalid(format!("the layer is larger than {limit} bytes when unpacked")));
        }
        for output in outputs {
            // A consumer that has gone has told why itself.
            if output.send(Piece { buffer: Arc::clone(&buffer), count }).is_err() {
                return Ok(());
            }
        }
        buffers.push(buffer);
    }
}

/// Reads until `space` is full or the stream ends.
fn fill(input: &mut impl Read, space: &mut [u8]) -> std::io::Result<usize> {
    let mut count = 0;
    while count < space.len() {
        match input.read(&mut space[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(count)
}

fn hash_all(input: &Receiver<Piece>) -> Digest {
    let mut hasher = Hasher::new();
    while let Ok(piece) = input.recv() {
        hasher.update(piece.bytes());
    }
    hasher.finish()
}

/// Inflated bytes, at the beginning of a buffer.
#[derive(Default)]
struct Piece {
    buffer: Arc<Vec<u8>>,
    count: usize,
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.count]
    }
}

/// The inflated bytes as a reader.
struct Stream {
    input: Receiver<Piece>,
    piece: Piece,
    position: usize,
}

impl Stream {
    fn new(input: Receiver<Piece>) -> Self {
        Self { input, piece: Piece::default(), position: 0 }
    }
}

impl Read for Stream {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.position == self.piece.count {
            // Given back before the wait for the next one.
            self.piece = Piece::default();
            self.position = 0;
            let Ok(next) = self.input.recv() else { return Ok(0) };
            self.piece = next;
        }
        let rest = &self.piece.bytes()[self.position..];
        let count = out.len().min(rest.len());
        out[..count].copy_from_slice(&rest[..count]);
        self.position += count;
        Ok(count)
    }
}

impl From<Result<Unpacked, Error>> for Report {
    fn from(result: Result<Unpacked, Error>) -> Self {
        match result {
            Ok(unpacked) => Self::Done(unpacked),
            Err(error) => {
                let kind = match error.kind() {
                    Kind::Kernel(errno) => format!("errno {}", errno.raw_os_error()),
                    Kind::Corrupt => "corrupt".to_owned(),
                    Kind::Unsupported => "unsupported".to_owned(),
                    _ => "invalid".to_owned(),
                };
                Self::Failed { kind, message: error.to_string() }
            }
        }
    }
}

impl Report {
    fn into_result(self) -> Result<Unpacked, Error> {
        match self {
            Self::Done(unpacked) => Ok(unpacked),
            Self::Failed { kind, message } => Err(Error::new(
                match kind.strip_prefix("errno ").and_then(|n| n.parse().ok()) {
                    Some(errno) => Kind::Kernel(Errno::from_raw_os_error(errno)),
                    None if kind == "corrupt" => Kind::Corrupt,
                    None if kind == "unsupported" => Kind::Unsupported,
                    None => Kind::Invalid,
                },
                message,
            )),
        }
    }
}
