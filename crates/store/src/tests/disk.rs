//! A disk in memory that can lose what was not synced, and refuse work.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use redb::{Database, DatabaseError, StorageBackend};

use crate::file::Open;

/// What happened to it, in order.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Length(u64),
    Write(u64, Vec<u8>),
    Sync,
    /// Somebody was told that this revision is durable.
    Told(u64),
}

/// Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<Media>>);

#[derive(Debug, Default)]
struct Media {
    bytes: Vec<u8>,
    steps: Vec<Step>,
    /// Operations that change something, until they begin to fail, how many do, with which error, and whether they do it all the same.
    fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) after: usize,
    pub(crate) times: usize,
    pub(crate) errno: i32,
    pub(crate) is_done: bool,
}

/// Bytes that a disk writes whole or not at all.
const SECTOR: usize = 512;

impl Disk {
    pub(crate) fn with(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Media { bytes, ..Media::default() })))
    }

    pub(crate) fn told(&self, revision: u64) {
        self.media().steps.push(Step::Told(revision));
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        self.media().steps.clone()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.media().bytes.clone()
    }

    pub(crate) fn fail(&self, fault: Fault) {
        self.media().fault = Some(fault);
    }

    /// Whether the fault has come, wholly.
    pub(crate) fn has_failed(&self) -> bool {
        self.media().fault.is_none()
    }

    pub(crate) fn heal(&self) {
        self.media().fault = None;
    }

    fn media(&self) -> MutexGuard<'_, Media> {
        self.0.lock().unwrap()
    }
}

impl Media {
    fn change(&mut self, step: Step) -> io::Result<()> {
        let mut outcome = Ok(());
        if let Some(fault) = &mut self.fault {
            if fault.after > 0 {
                fault.after -= 1;
            } else {
                fault.times -= 1;
                outcome = Err(io::Error::from_raw_os_error(fault.errno));
                let is_done = fault.is_done;
                if fault.times == 0 {
                    self.fault = None;
                }
                if !is_done {
                    return outcome;
                }
            }
        }
        apply(&mut self.bytes, &step, |_| true);
        self.steps.push(step);
        outcome
    }
}

/// Does a step, of a write the sectors that are `kept`.
fn apply(bytes: &mut Vec<u8>, step: &Step, mut kept: impl FnMut(usize) -> bool) {
    match step {
        Step::Length(length) => bytes.resize(usize::try_from(*length).unwrap(), 0),
        Step::Write(offset, data) => {
            let offset = usize::try_from(*offset).unwrap();
            if bytes.len() < offset + data.len() {
                bytes.resize(offset + data.len(), 0);
            }
            for (number, part) in data.chunks(SECTOR).enumerate() {
                let at = offset + number * SECTOR;
                if kept(at / SECTOR) {
                    bytes[at..at + part.len()].copy_from_slice(part);
                }
            }
        }
        Step::Sync | Step::Told(_) => {}
    }
}

/// The disk after a power cut that comes before step `cut`: all that was synced, and of the rest what `kept` says for each sector.
pub(crate) fn cut(begin: &[u8], steps: &[Step], cut: usize, mut kept: impl FnMut() -> bool) -> Vec<u8> {
    let synced = steps[..cut].iter().rposition(|step| matches!(step, Step::Sync)).unwrap_or(0);
    let mut bytes = begin.to_vec();
    for step in &steps[..synced] {
        apply(&mut bytes, step, |_| true);
    }
    for step in &steps[synced..cut] {
        // A length that is lost is that of the file, which a write behind it makes longer again.
        if !matches!(step, Step::Length(_)) || kept() {
            apply(&mut bytes, step, |_| kept());
        }
    }
    bytes
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.media().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        let media = self.media();
        let found = media.bytes.get(offset..offset + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.media().change(Step::Length(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.media().change(Step::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.media().change(Step::Write(offset, data.to_vec()))
    }
}

impl Open for Disk {
    fn open(&self) -> Result<Database, DatabaseError> {
        Database::builder().set_cache_size(256 << 10).create_with_backend(self.clone())
    }

    fn name(&self) -> String {
        "of a test".into()
    }
}
