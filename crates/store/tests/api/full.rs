//! A disk that fills up.

use std::fs::File;
use std::process::Command;

use bytes::Bytes;
use vaquita_store::{Expect, Kind, Options, Store};

use crate::{pod, put};

/// A filesystem of its own, mounted as long as this is held.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        vaquita_testing::require_root();
        let disk = Self(tempfile::tempdir().unwrap());
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=8m,mode=700", "store-test"]).arg(disk.0.path());
        assert!(mount.status().unwrap().success());
        disk
    }

    /// Takes all room that is left.
    fn fill(&self) {
        let mut file = File::create(self.0.path().join("filler")).unwrap();
        let _ = std::io::copy(&mut std::io::repeat(7), &mut file);
    }

    fn free(&self) {
        std::fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::empty());
    }
}

#[tokio::test]
async fn a_full_disk_is_said_reads_go_on_and_room_ends_it() {
    let disk = Disk::new();
    let path = disk.0.path().join("store.redb");
    let store = Store::open(&path, Options::default()).unwrap();
    put(&store, pod("a"), "x").await;
    disk.fill();
    let body = || Bytes::from(vec![b'y'; 100_000]);
    let mut written = Vec::new();
    let refused = loop {
        match store.put(pod(&format!("p{}", written.len())), Expect::Absent, body()).await {
            Ok(entry) => written.push(entry),
            Err(error) => break error,
        }
        assert!(written.len() < 1000);
    };
    assert_eq!(refused.kind(), Kind::Full, "{refused}");
    let text = refused.to_string();
    assert!(text.starts_with("write pods default/p") && text.contains("store.redb"), "{text}");
    assert!(text.contains("No space left on device"), "{text}");
    assert_eq!(store.list("pods", None, None, None, None).unwrap().entries.len(), written.len() + 1);
    let mut watcher = store.watch("pods", None, 2).unwrap();
    for entry in &written {
        assert_eq!(&watcher.next().await.unwrap().entry, entry);
    }

    // To make room by deleting is possible.
    if let Some(entry) = written.pop() {
        store.delete((*entry.key).clone(), Expect::Any, Bytes::new()).await.unwrap();
    }
    assert_eq!(
        store.put(pod("large"), Expect::Any, vec![b'z'; 4 << 20].into()).await.unwrap_err().kind(),
        Kind::Full
    );
    disk.free();
    store.put(pod("large"), Expect::Any, vec![b'z'; 1 << 20].into()).await.unwrap();
    let count = store.list("pods", None, None, None, None).unwrap().entries.len();
    assert_eq!(count, written.len() + 2);
    drop(store);
    let store = Store::open(&path, Options::default()).unwrap();
    assert_eq!(store.list("pods", None, None, None, None).unwrap().entries.len(), count);

    // And a store that was closed opens on a full disk, to be read at least.
    drop(store);
    disk.fill();
    let store = Store::open(&path, Options::default()).unwrap();
    assert_eq!(store.list("pods", None, None, None, None).unwrap().entries.len(), count);
    // A backup has no room, and leaves nothing.
    assert_eq!(store.backup(&disk.0.path().join("backup")).unwrap_err().kind(), Kind::Full);
    assert!(!disk.0.path().join("backup").exists());
}
