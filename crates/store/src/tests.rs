//! Tests that need a disk that forgets and fails.

mod disk;
mod faults;
mod model;
mod power;

use bytes::Bytes;

use crate::{Entry, Expect, Key, Options, Store};
use disk::Disk;

/// A key of few, so that entries are replaced and deleted often.
fn key(number: usize) -> Key {
    Key::new(["pods", "nodes"][number % 2], ["", "a", "b"][number / 2 % 3], &format!("n{}", number % 7))
}

/// A body that tells which change made it, of very different lengths.
fn body(number: usize) -> Bytes {
    let length = [1, 100, 5000, 30_000][number % 4];
    format!("{number}:").into_bytes().into_iter().cycle().take(length + 8).collect()
}

fn open(disk: &Disk, options: &Options) -> Store {
    Store::open_at(Box::new(disk.clone()), "test".into(), options).unwrap()
}

fn everything(store: &Store) -> Vec<Entry> {
    let of = |resource| store.list(resource, None, None, None, None).unwrap().entries;
    [of("nodes"), of("pods")].concat()
}

/// Writes or deletes, as it comes.
async fn change(store: &Store, number: usize) -> Result<(Entry, bool), crate::Error> {
    let (key, is_deletion) = (key(number * 5 / 3), number % 3 == 2);
    if is_deletion && store.get(&key).is_some() {
        return Ok((store.delete(key, Expect::Any, body(number)).await?, true));
    }
    Ok((store.put(key, Expect::Any, body(number)).await?, false))
}
