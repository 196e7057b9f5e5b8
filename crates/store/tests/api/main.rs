//! The store as its users see it.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod backup;
mod basics;
mod full;

use std::path::PathBuf;

use bytes::Bytes;
use vaquita_store::{Entry, Error, Expect, Key, Kind, Options, Store};

/// A directory with a store in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("cluster/store.redb")
    }

    fn open(&self) -> Store {
        self.open_with(Options::default())
    }

    fn open_with(&self, options: Options) -> Store {
        Store::open(&self.path(), options).unwrap()
    }
}

fn pod(name: &str) -> Key {
    Key::new("pods", "default", name)
}

async fn put(store: &Store, key: Key, body: &str) -> Entry {
    store.put(key, Expect::Any, Bytes::copy_from_slice(body.as_bytes())).await.unwrap()
}

async fn delete(store: &Store, key: Key) -> Entry {
    store.delete(key, Expect::Any, Bytes::from_static(b"last")).await.unwrap()
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> (Kind, String) {
    let error = result.unwrap_err();
    (error.kind(), error.to_string())
}

/// Names and bodies.
fn shown(entries: &[Entry]) -> Vec<String> {
    entries
        .iter()
        .map(|e| {
            format!(
                "{}/{}@{}={}",
                e.key.namespace(),
                e.key.name(),
                e.revision,
                String::from_utf8_lossy(&e.body)
            )
        })
        .collect()
}
