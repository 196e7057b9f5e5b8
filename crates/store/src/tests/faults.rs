//! A disk that is full for a while, or fails.

use std::collections::BTreeMap;

use super::disk::Fault;
use super::{Disk, body, change, everything, key, open};
use crate::{Expect, Kind, Options};

const NOSPC: i32 = 28;
const IO: i32 = 5;

#[tokio::test]
async fn after_every_failure_memory_and_disk_agree_and_writing_goes_on() {
    let (mut failures, mut made_all_the_same) = (0, 0);
    for errno in [NOSPC, IO] {
        for is_done in [false, true] {
            for times in [1, 2, 7] {
                for after in 0..30 {
                    let disk = Disk::default();
                    let store = open(&disk, &Options::default());
                    for number in 0..4 {
                        change(&store, number).await.unwrap();
                    }
                    let (before, revision) = (everything(&store), store.revision());
                    disk.fail(Fault { after, times, errno, is_done });
                    let when = format!("errno {errno}, done {is_done}, {times} times after {after}");
                    let outcome = store.put(key(9), Expect::Any, body(7)).await;
                    let found = store.get(&key(9)).is_some_and(|entry| entry.body == body(7));
                    match &outcome {
                        Ok(_) => assert!(found, "{when}"),
                        Err(error) => {
                            failures += 1;
                            let kind = if errno == NOSPC { Kind::Full } else { Kind::Io };
                            assert_eq!(error.kind(), kind, "{when}: {error}");
                            assert!(error.to_string().starts_with("write nodes a/n2: store "), "{error}");
                            // What is read is as it was.
                            assert_eq!((everything(&store), store.revision()), (before, revision), "{when}");
                        }
                    }
                    disk.heal();
                    let (entry, _) = change(&store, 5).await.unwrap();
                    // It turned up later, where the disk had it and could not say so.
                    let is_there = store.get(&key(9)).is_some_and(|entry| entry.body == body(7));
                    made_all_the_same += usize::from(outcome.is_err() && is_there);
                    let expected = revision + 1 + u64::from(is_there);
                    assert_eq!(entry.revision, expected, "{when}");
                    let now = everything(&store);
                    drop(store);
                    let again = open(&disk, &Options::default());
                    assert_eq!((everything(&again), again.revision()), (now, expected), "{when}");
                }
            }
        }
    }
    assert!(failures > 50 && made_all_the_same > 0, "{failures} {made_all_the_same}");
}

#[tokio::test]
async fn a_full_disk_refuses_all_that_wait_and_no_reader() {
    let disk = Disk::default();
    let store = open(&disk, &Options::default());
    let made = store.put(key(0), Expect::Absent, body(1)).await.unwrap();
    let mut watcher = store.watch("pods", None, 1).unwrap();
    disk.fail(Fault { after: 0, times: 100_000, errno: NOSPC, is_done: false });
    let writers = (1..20).map(|number| store.put(key(number), Expect::Any, body(number)));
    for outcome in futures_util::future::join_all(writers).await {
        assert_eq!(outcome.unwrap_err().kind(), Kind::Full);
    }
    // Also what would have been refused anyway: the reason may have been a change that came to nothing.
    assert_eq!(store.put(key(0), Expect::Absent, body(1)).await.unwrap_err().kind(), Kind::Full);
    assert_eq!(store.get(&key(0)), Some(made.clone()));
    assert_eq!(watcher.next().await.unwrap().entry, made);
    assert_eq!(watcher.try_next().unwrap(), None);
    assert!(!disk.has_failed());
    disk.heal();
    assert_eq!(store.put(key(0), Expect::Absent, body(1)).await.unwrap_err().kind(), Kind::Exists);
    assert_eq!(store.put(key(1), Expect::Absent, body(1)).await.unwrap().revision, made.revision + 1);
}

#[tokio::test]
async fn every_damaged_byte_is_found_or_harmless() {
    let disk = Disk::default();
    let store = open(&disk, &Options::default());
    for number in 0..60 {
        change(&store, number).await.unwrap();
    }
    let expected = (everything(&store), store.revision());
    drop(store);
    let bytes = disk.bytes();
    let mut outcomes = BTreeMap::new();
    for at in (0..bytes.len()).step_by(1009).chain(0..320) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x55;
        let damaged = Disk::with(bytes);
        let outcome =
            crate::Store::open_at(Box::new(damaged), "test".into(), &Options::default()).map(|store| {
                assert_eq!((everything(&store), store.revision()), expected, "byte {at}");
            });
        match outcome {
            Ok(()) => *outcomes.entry("harmless").or_insert(0) += 1,
            Err(error) => {
                assert_eq!(error.kind(), Kind::Corrupt, "byte {at}: {error}");
                assert!(error.to_string().contains("restore a backup"), "byte {at}: {error}");
                *outcomes.entry("found").or_insert(0) += 1;
            }
        }
    }
    assert!(outcomes["found"] > 50, "{outcomes:?}");
}
