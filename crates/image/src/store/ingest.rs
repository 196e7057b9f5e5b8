//! One layer on its way in: hashed, verified and unpacked while it comes.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use bytes::Bytes;
use tar::{EntryType, Header};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::digest::Hasher;
use crate::manifest::{Blob, Content};
use crate::unpack::{Job, Limits, Unpacked, zstd_window};
use crate::{Digest, Error, Kind, Options};

use super::layout::{Layout, Staged};
use super::{Partial, now};

/// Pieces between the network and the unpacker.
const QUEUE: usize = 4;

/// Memory that the zstd windows of one pull may take together, in bytes.
const WINDOWS: u64 = 24 << 20;

/// A piece of a layer; a stream that ends without [`Piece::End`] was given up.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    End,
}

/// What a running pull or load shows, and what its layers share.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) reference: String,
    pub(crate) started: i64,
    pub(crate) bytes_done: AtomicU64,
    pub(crate) bytes_total: AtomicU64,
    pub(crate) layers_done: AtomicU32,
    pub(crate) layers_total: AtomicU32,
    windows: Windows,
}

impl Progress {
    pub(crate) fn new(reference: String) -> Arc<Self> {
        Arc::new(Self {
            reference,
            started: now(),
            bytes_done: AtomicU64::new(0),
            bytes_total: AtomicU64::new(0),
            layers_done: AtomicU32::new(0),
            layers_total: AtomicU32::new(0),
            windows: Windows::default(),
        })
    }
}

/// A layer that is unpacked and verified, and not yet part of the store.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) staged: Staged,
    pub(crate) unpacked: Unpacked,
}

/// Starts to take a layer in. Send its bytes to the sender; the future ends with the verified layer.
///
/// `blob` is what the compressed bytes must be; `None` where only the unpacked form is known. Dropping the sender
/// without [`Piece::End`] gives up. The thread that does it is known to `tracker`: when that has none left, nothing of an
/// unfinished layer is left either but its beginning: what `partial` has kept goes before the first piece, and pieces are added to it.
pub(crate) fn ingest(
    tracker: &TaskTracker,
    layout: &Arc<Layout>,
    options: &Options,
    blob: Option<Blob>,
    diff_id: Digest,
    progress: Arc<Progress>,
    partial: Option<Partial>,
) -> (mpsc::Sender<Piece>, oneshot::Receiver<Result<Ready, Error>>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (done, result) = oneshot::channel();
    let (layout, options) = (Arc::clone(layout), options.clone());
    let mark = tracker.token();
    // Not one of the runtime's threads for what blocks: it waits for a registry, maybe for ever, and those are counted, so
    // that enough of such pulls would keep everybody else from working. Where none can be made the receiver hears of it.
    let _ = std::thread::Builder::new().name("layer".into()).spawn(move || {
        let taken = take_in(&layout, &options, receiver, blob.as_ref(), diff_id, &progress, partial);
        // Nothing is held any more when others hear of the end.
        drop((layout, progress));
        let _ = done.send(taken);
        drop(mark);
    });
    (sender, result)
}

fn take_in(
    layout: &Arc<Layout>,
    options: &Options,
    pieces: mpsc::Receiver<Piece>,
    blob: Option<&Blob>,
    diff_id: Digest,
    progress: &Progress,
    partial: Option<Partial>,
) -> Result<Ready, Error> {
    let staged = layout.stage()?;
    let limits = Limits { bytes: options.layer_bytes, entries: options.layer_entries };
    let job = Job::start(&options.unpacker, layout.layer_home(staged.number)?, limits)?;
    let unpacked = feed(pieces, blob, job, progress, partial)?;
    let is_said = blob.is_none_or(|blob| blob.content == Content::Plain);
    if is_said && unpacked.diff_id != diff_id {
        return Err(Error::corrupt(format!(
            "a layer is {} when unpacked, but the image configuration says {diff_id}",
            unpacked.diff_id
        )));
    }
    progress.layers_done.fetch_add(1, Ordering::Relaxed);
    Ok(Ready { staged, unpacked })
}

fn feed(
    pieces: mpsc::Receiver<Piece>,
    blob: Option<&Blob>,
    job: Job,
    progress: &Progress,
    partial: Option<Partial>,
) -> Result<Unpacked, Error> {
    let mut intake = Intake { blob, job, progress, hasher: Hasher::new(), size: 0, window: None };
    let read = intake.read(pieces, partial);
    let size = intake.size;
    let result = match read {
        Ok(true) => intake.finish(),
        Ok(false) => intake.job.finish().and(Err(Error::corrupt("the unpacker ended before the layer did"))),
        Err(error) => Err(error),
    };
    if result.is_err() {
        // It comes in again, or not at all.
        progress.bytes_done.fetch_sub(size, Ordering::Relaxed);
    }
    result
}

/// The bytes of a layer on their way through.
struct Intake<'a> {
    blob: Option<&'a Blob>,
    job: Job,
    progress: &'a Progress,
    hasher: Hasher,
    size: u64,
    window: Option<Taken<'a>>,
}

impl Intake<'_> {
    /// Reads to the end. `false` when the unpacker has ended before.
    fn read(
        &mut self,
        mut pieces: mpsc::Receiver<Piece>,
        mut partial: Option<Partial>,
    ) -> Result<bool, Error> {
        let mut goes_on = Ok(match self.blob.and_then(wrapping) {
            Some(header) => self.job.write(&header),
            None => true,
        });
        if let Some(partial) = &mut partial {
            partial.replay(|bytes| {
                goes_on = self.take(bytes);
                matches!(goes_on, Ok(true))
            })?;
        }
        while goes_on? {
            match pieces.blocking_recv() {
                Some(Piece::Data(bytes)) => {
                    goes_on = self.take(&bytes);
                    if let Some(partial) = &mut partial
                        && goes_on.is_ok()
                    {
                        partial.append(&bytes);
                    }
                }
                Some(Piece::End) => return Ok(true),
                None => return Err(Error::new(Kind::Cancelled, "the layer was given up")),
            }
        }
        Ok(false)
    }

    /// `false` when the unpacker has ended.
    fn take(&mut self, bytes: &[u8]) -> Result<bool, Error> {
        let size = self.size + bytes.len() as u64;
        if let Some(blob) = self.blob {
            if size > blob.size {
                let message = format!("layer {} is longer than its {} bytes", blob.digest, blob.size);
                return Err(Error::corrupt(message));
            }
            self.hasher.update(bytes);
        }
        if self.window.is_none() {
            self.window = Some(self.progress.windows.take(zstd_window(bytes)));
        }
        self.size = size;
        self.progress.bytes_done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(self.job.write(bytes))
    }

    fn finish(self) -> Result<Unpacked, Error> {
        let Self { blob, mut job, hasher, size, .. } = self;
        if let Some(blob) = blob {
            let digest = hasher.finish();
            if size != blob.size {
                return Err(Error::corrupt(format!(
                    "layer {} has {size} bytes, not {}",
                    blob.digest, blob.size
                )));
            }
            if digest != blob.digest {
                return Err(Error::corrupt(format!("layer {} has the digest {digest}", blob.digest)));
            }
            if matches!(blob.content, Content::File(_)) {
                let padding = usize::try_from(size.next_multiple_of(512) - size).unwrap_or_default();
                // An unpacker that has ended early says why below.
                job.write(&[0; 512 + 1024][..padding + 1024]);
            }
        }
        job.finish()
    }
}

/// Which part of [`WINDOWS`] is taken. A layer waits for others of its pull before it would take more than is left; they end whatever
/// it does.
#[derive(Debug, Default)]
struct Windows {
    taken: Mutex<u64>,
    less: Condvar,
}

/// A layer's window; free when dropped.
struct Taken<'a>(&'a Windows, u64);

impl Windows {
    /// Blocks until there is room for `bytes`; who is alone has room for any.
    fn take(&self, bytes: u64) -> Taken<'_> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = |taken: &mut u64| *taken > 0 && *taken + bytes > WINDOWS;
        *self.less.wait_while(taken, is_full).unwrap_or_else(PoisonError::into_inner) += bytes;
        Taken(self, bytes)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.0.taken.lock().unwrap_or_else(PoisonError::into_inner) -= self.1;
        self.0.less.notify_all();
    }
}

/// What makes the only entry of a tar out of a blob that is a file: what the unpacker reads before it. Nothing that looks like the
/// beginning of a compressed stream, whatever the file is called.
fn wrapping(blob: &Blob) -> Option<Vec<u8>> {
    let Content::File(path) = &blob.content else { return None };
    let name = format!("./{path}");
    let mut out = Vec::new();
    if name.len() > 100 {
        out.extend_from_slice(
            header(EntryType::GNULongName, b"././@LongLink", name.len() as u64 + 1).as_bytes(),
        );
        out.extend_from_slice(name.as_bytes());
        out.resize((out.len() + 1).next_multiple_of(512), 0);
    }
    out.extend_from_slice(header(EntryType::Regular, name.as_bytes(), blob.size).as_bytes());
    Some(out)
}

/// The header of a file that belongs to root. Of a name that is too long the beginning.
fn header(kind: EntryType, name: &[u8], size: u64) -> Header {
    let mut header = Header::new_gnu();
    let length = name.len().min(100);
    header.as_old_mut().name[..length].copy_from_slice(&name[..length]);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_that_are_too_large_together_come_one_after_the_other() {
        let windows = Windows::default();
        let most = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let _taken = windows.take(10 << 20);
                    most.fetch_max(*windows.taken.lock().unwrap(), Ordering::Relaxed);
                });
            }
            // Larger than all there is, but it does not wait for ever.
            scope.spawn(|| drop(windows.take(WINDOWS + 1)));
        });
        assert_eq!(most.into_inner() % (10 << 20), 0);
        assert_eq!(*windows.taken.lock().unwrap(), 0);
    }
}
