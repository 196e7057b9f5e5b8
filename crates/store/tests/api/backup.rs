//! Backup and restore.

use std::os::unix::fs::PermissionsExt as _;

use bytes::Bytes;
use vaquita_store::{Expect, Kind, Store};

use crate::{Place, delete, kind, pod, put, shown};

#[tokio::test]
async fn a_backup_of_a_running_store_comes_back() {
    let place = Place::new();
    let store = place.open();
    for number in 0..3000 {
        if number % 100 == 0 {
            delete_all(&store).await;
        }
        let _ = put(&store, pod(&format!("p{}", number % 100)), &number.to_string()).await;
    }
    let file = place.0.path().join("backup");
    store.backup(&file).unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let saved = store.list("pods", None, None, None, None).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!(kind(store.backup(&file)).0, Kind::Exists);
    assert_eq!(std::fs::read(&file).unwrap(), bytes);

    let lost = put(&store, pod("lost"), "after the backup").await;
    let (refused, text) = kind(Store::restore(&file, &place.path()));
    assert_eq!(refused, Kind::Busy, "{text}");
    assert_eq!(store.get(&pod("lost")), Some(lost.clone()));
    drop(store);
    Store::restore(&file, &place.path()).unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), bytes);

    let store = place.open();
    let found = store.list("pods", None, None, None, None).unwrap();
    assert_eq!(found.entries, saved.entries);
    assert!(found.revision > lost.revision);
    // Who saw what is lost, sees that.
    assert_eq!(kind(store.watch("pods", None, lost.revision).map(drop)).0, Kind::Compacted);
    assert_eq!(
        kind(store.put(pod("lost"), Expect::Revision(lost.revision), Bytes::new()).await).0,
        Kind::Absent
    );
    assert!(put(&store, pod("new"), "x").await.revision > found.revision);
    drop(store);

    // What was replaced is kept.
    let mut replaced = place.path().into_os_string();
    replaced.push(".replaced");
    let old = Store::open(replaced.as_ref(), vaquita_store::Options::default()).unwrap();
    assert_eq!(old.get(&pod("lost")), Some(lost));
    let mut names: Vec<_> =
        place.path().parent().unwrap().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["store.redb", "store.redb.replaced"]);
}

async fn delete_all(store: &Store) {
    for entry in store.list("pods", None, None, None, None).unwrap().entries {
        delete(store, (*entry.key).clone()).await;
    }
}

#[tokio::test]
async fn a_backup_goes_where_nothing_is_and_over_what_is_damaged() {
    let place = Place::new();
    let store = place.open();
    put(&store, pod("a"), "x").await;
    let file = place.0.path().join("backup");
    store.backup(&file).unwrap();
    drop(store);

    let new = place.0.path().join("new/cluster/store.redb");
    Store::restore(&file, &new).unwrap();
    let store = Store::open(&new, vaquita_store::Options::default()).unwrap();
    assert_eq!(shown(&store.list("pods", None, None, None, None).unwrap().entries), ["default/a@2=x"]);
    drop(store);

    std::fs::write(place.path(), "rubbish".repeat(5000)).unwrap();
    Store::restore(&file, &place.path()).unwrap();
    assert!(place.open().get(&pod("a")).is_some());
}

#[tokio::test]
async fn what_is_no_backup_is_refused_and_changes_nothing() {
    let place = Place::new();
    let store = place.open();
    put(&store, pod("a"), &"x".repeat(9000)).await;
    let good = place.0.path().join("good");
    store.backup(&good).unwrap();
    // A store in use is no backup.
    let other = place.0.path().join("other/store.redb");
    assert_eq!(kind(Store::restore(&place.path(), &other)).0, Kind::Busy);
    drop(store);
    let before = std::fs::read(place.path()).unwrap();

    let file = place.0.path().join("backup");
    assert_eq!(kind(Store::restore(&file, &place.path())).0, Kind::Io);
    std::fs::write(&file, "").unwrap();
    assert_eq!(kind(Store::restore(&file, &place.path())).0, Kind::Corrupt);
    std::fs::write(&file, "rubbish".repeat(5000)).unwrap();
    assert_eq!(kind(Store::restore(&file, &place.path())).0, Kind::Corrupt);
    assert_eq!(kind(Store::restore(&file, &other)).0, Kind::Corrupt);
    // One byte of the body.
    let mut bytes = std::fs::read(&good).unwrap();
    let at = bytes.windows(100).position(|part| part == [b'x'; 100]).unwrap();
    bytes[at + 50] = b'y';
    std::fs::write(&file, &bytes).unwrap();
    let (refused, text) = kind(Store::restore(&file, &place.path()));
    assert_eq!(refused, Kind::Corrupt);
    assert!(text.ends_with("backup is damaged, or no backup: it cannot be restored"), "{text}");

    assert_eq!(std::fs::read(place.path()).unwrap(), before);
    let left: Vec<_> = place.path().parent().unwrap().read_dir().unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(!other.exists());
}
