//! Follows CRI log files: joins partial lines, survives rotation, stops when everything is read.

mod parse;

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

pub(super) use self::parse::Lines;
use crate::event::{Event, EventKind};

/// Between looks at a file that has been read to its end.
const POLL: Duration = Duration::from_millis(100);
/// Read at once, in bytes.
const CHUNK: usize = 64 << 10;

/// Whose log it is, and where events go.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) pod: String,
    pub(super) container: String,
    pub(super) events: mpsc::Sender<Event>,
}

/// Follows a log from its beginning. Ends when `done` becomes true and everything is read, or nobody listens.
pub(super) async fn follow(path: PathBuf, target: Target, mut done: watch::Receiver<bool>) {
    let mut lines = Lines::default();
    let mut file: Option<File> = None;
    let mut chunk = vec![0; CHUNK];
    loop {
        // Looked at before reading: what is written until the container's end is reported is all there is.
        let last = *done.borrow_and_update();
        if file.is_none() {
            file = File::open(&path).ok();
        }
        while let Some(open) = &mut file {
            let len = open.read(&mut chunk).unwrap_or(0);
            if len > 0 {
                for line in lines.feed(&chunk[..len]) {
                    if !send(&target, line).await {
                        return;
                    }
                }
                continue;
            }
            if !rotated(open, &path) {
                break;
            }
            // The old file is read to its end; the new one begins.
            file = File::open(&path).ok();
        }
        if last {
            for line in lines.finish() {
                send(&target, line).await;
            }
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            changed = done.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// The end of a log, as far as it fits both limits: what a container that failed said last.
pub(super) fn tail(path: &Path, max_lines: usize, max_bytes: usize) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        use std::io::{Seek as _, SeekFrom};
        // Records are longer than their content, but not ten times.
        let len = file.metadata().map_or(0, |metadata| metadata.len());
        let from = len.saturating_sub(u64::try_from(max_bytes * 10).unwrap_or(u64::MAX));
        let _ = file.seek(SeekFrom::Start(from));
        let _ = file.read_to_end(&mut bytes);
        if from > 0 {
            let first = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
            bytes.drain(..first);
        }
    }
    let mut lines = Lines::default();
    let mut all = lines.feed(&bytes);
    all.extend(lines.finish());
    let text: Vec<String> = all.into_iter().rev().take(max_lines).map(|line| line.text).collect();
    let text = text.into_iter().rev().map(|line| line + "\n").collect::<String>();
    let mut from = text.len().saturating_sub(max_bytes);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].to_owned()
}

fn rotated(open: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(theirs)) = (open.metadata(), std::fs::metadata(path)) else { return false };
    (ours.dev(), ours.ino()) != (theirs.dev(), theirs.ino())
}

async fn send(target: &Target, line: parse::Line) -> bool {
    let kind = EventKind::Log {
        container: target.container.clone(),
        stream: line.stream,
        line: line.text,
        written: line.time.unwrap_or(Timestamp::UNIX_EPOCH),
    };
    let event = Event { time: Timestamp::now(), pod: target.pod.clone(), kind };
    target.events.send(event).await.is_ok()
}

#[cfg(test)]
mod tests;
