//! Objects by key, with one counter of revisions: kept in one file on disk, listed and watched from memory.
//!
//! Knows keys and bytes, not what they mean.
//!
//! Every change gets the next revision. A change that was answered is on the disk: it survives the end of the process and a power cut.
//! Changes go through one thread, which makes all that wait at a moment durable by one commit. What is read comes from memory, never
//! waits for the disk, and is durable already.
//!
//! The last changes are remembered, within bounds of number, bytes and age: [`Store::watch`] goes on from a revision, also of a store
//! that was closed in between, and [`Store::list`] shows what there was. Watchers share that history; each is a number in it.
//!
//! # The file
//! A redb database. Table `log` has a row for each revision that is still of use: when and what was done to which key, and the body.
//! A row is removed when its entry was replaced or deleted and history has passed that moment. So what is there is found by reading
//! the rows in order, and a change writes its body once. Table `meta` has the format, the last revision and the one up to which history
//! is gone.

mod backup;
mod entry;
mod error;
mod file;
mod key;
mod list;
mod load;
mod memory;
mod state;
mod store;
mod watch;
mod writer;

#[cfg(test)]
mod tests;

pub use entry::{Change, Entry, Expect, List, What};
pub use error::{Error, Kind};
pub use key::{Key, NAME_BYTES};
pub use store::{BODY_BYTES, Options, Stats, Store};
pub use watch::Watcher;
