//! Backup while it runs, and the way back.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use crate::file::{self, AtPath, Batch, Log, Meta, create, directory, sync_directory};
use crate::load::{encode, load};
use crate::memory::Memory;
use crate::state::{Event, State, change};
use crate::{Entry, Error, Kind};

/// So much higher than anything that was seen are revisions after a restore: what a lost store gave out and no backup knows is less.
const LEAP: u64 = 1_000_000;
/// Rows of one transaction.
const ROWS: usize = 1024;

pub(crate) fn backup(memory: &Memory, path: &Path) -> Result<(), Error> {
    // Shared bodies: this takes no long time, and little memory.
    let (entries, revision) = {
        let state = memory.read();
        (state.entries.iter().map(|slot| slot.0.clone()).collect(), state.revision)
    };
    drop(create(path, OpenOptions::new().write(true).create_new(true))?);
    let written = write(path, entries, revision).and_then(|()| sync_directory(directory(path)));
    if written.is_err() {
        let _ = std::fs::remove_file(path);
    }
    written
}

pub(crate) fn restore(from: &Path, path: &Path) -> Result<(), Error> {
    if let Err(e) = from.metadata() {
        return Err(Error::io(format!("stat({})", from.display()), &e));
    }
    let is_there = path.try_exists().map_err(|e| Error::io(format!("stat({})", path.display()), &e))?;
    file::make(path)?;
    let made = take_over(from, path, is_there);
    if made.is_err() {
        let _ = std::fs::remove_file(path.with_added_extension("restored"));
        if !is_there {
            let _ = std::fs::remove_file(path);
        }
    }
    made
}

fn take_over(from: &Path, path: &Path, is_there: bool) -> Result<(), Error> {
    let new = path.with_added_extension("restored");
    let content = content(from, &new)?;
    let last = match load(Box::new(AtPath(path.to_owned()))) {
        Ok((_, state)) => state.revision,
        // Damage is what backups are for.
        Err(error) if error.kind() == Kind::Corrupt => 0,
        Err(error) => return Err(error),
    };
    // Held until the new one is in its place, so that nobody opens the old one meanwhile.
    let lock = create(path, OpenOptions::new().read(true).write(true))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::new(Kind::Busy, "somebody opened the store meanwhile"));
        }
        Err(TryLockError::Error(e)) => return Err(Error::io(format!("flock({})", path.display()), &e)),
    }
    drop(create(&new, OpenOptions::new().write(true).create_new(true))?);
    let revision = content.revision.max(last) + LEAP;
    write(&new, content.entries.into_iter().map(|slot| slot.0).collect(), revision)?;
    if is_there {
        rename(path, &path.with_added_extension("replaced"))?;
    }
    rename(&new, path)?;
    sync_directory(directory(path))
}

/// What a backup has. It is checked, and maybe repaired, in a copy: the backup itself stays as it is.
fn content(from: &Path, copy: &Path) -> Result<State, Error> {
    let io = |what: &str, e: &std::io::Error| Error::io(format!("{what}({})", from.display()), e);
    let mut source = File::open(from).map_err(|e| io("open", &e))?;
    match source.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::new(
                Kind::Busy,
                format!("{} is a store in use, and no backup", from.display()),
            ));
        }
        Err(TryLockError::Error(e)) => return Err(io("flock", &e)),
    }
    let _ = std::fs::remove_file(copy);
    let mut target = create(copy, OpenOptions::new().write(true).create_new(true))?;
    let bytes = std::io::copy(&mut source, &mut target)
        .map_err(|e| Error::io(format!("copy({}, {})", from.display(), copy.display()), &e))?;
    drop(target);
    if bytes == 0 {
        return Err(Error::new(Kind::Corrupt, format!("{} is empty: no backup", from.display())));
    }
    let loaded = load(Box::new(AtPath(copy.to_owned())));
    let _ = std::fs::remove_file(copy);
    match loaded {
        Ok((_, state)) => Ok(state),
        Err(error) if error.kind() == Kind::Corrupt => Err(Error::new(
            Kind::Corrupt,
            format!("{} is damaged, or no backup: it cannot be restored", from.display()),
        )),
        Err(error) => Err(error),
    }
}

/// A store that has entries, and no history.
fn write(path: &Path, mut entries: Vec<Entry>, revision: u64) -> Result<(), Error> {
    entries.sort_unstable_by_key(|entry| entry.revision);
    let (mut log, _) = Log::open(Box::new(AtPath(path.to_owned())), |_, _| Ok(()))?;
    let meta = Meta { revision, compacted: revision };
    // Without entries there is one transaction nevertheless.
    let mut rest = entries.as_slice();
    loop {
        let (part, after) = rest.split_at(rest.len().min(ROWS));
        let row = |entry: &Entry| {
            let event = Event { change: change(entry.clone(), None, false), time: 0 };
            (entry.revision, encode(&event))
        };
        log.write(&Batch { rows: part.iter().map(row).collect(), drop: Vec::new(), meta })?;
        rest = after;
        if rest.is_empty() {
            return Ok(());
        }
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::rename(from, to)
        .map_err(|e| Error::io(format!("rename({}, {})", from.display(), to.display()), &e))
}
