//! Reading, writing, watching.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use vaquita_store::{BODY_BYTES, Expect, Key, Kind, Options, What};

use crate::{Place, delete, kind, pod, put, shown};

#[tokio::test]
async fn what_was_written_is_there_and_comes_back_after_a_restart() {
    let place = Place::new();
    let store = place.open();
    assert_eq!(store.revision(), 1);
    assert!(store.list("pods", None, None, None, None).unwrap().entries.is_empty());
    let a = put(&store, pod("a"), "one").await;
    assert_eq!(a.revision, 2);
    put(&store, Key::new("nodes", "", "n"), "node").await;
    let again = put(&store, pod("a"), "two").await;
    assert_eq!((again.revision, store.get(&pod("a"))), (4, Some(again)));
    put(&store, pod("b"), "gone").await;
    assert_eq!(delete(&store, pod("b")).await.revision, 6);
    assert_eq!(store.get(&pod("b")), None);
    let list = store.list("pods", None, None, None, None).unwrap();
    assert_eq!(shown(&list.entries), ["default/a@4=two"]);
    drop(store);

    for path in [place.path(), place.path().parent().unwrap().to_owned()] {
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
    }
    let store = place.open();
    assert_eq!(store.revision(), 6);
    assert_eq!(shown(&store.list("pods", None, None, None, None).unwrap().entries), ["default/a@4=two"]);
    assert_eq!(shown(&store.list("nodes", None, None, None, None).unwrap().entries), ["/n@3=node"]);
    assert_eq!(put(&store, pod("c"), "next").await.revision, 7);
}

#[tokio::test]
async fn expectations_are_kept() {
    let place = Place::new();
    let store = place.open();
    let body = || Bytes::from_static(b"x");
    let made = store.put(pod("a"), Expect::Absent, body()).await.unwrap();
    assert_eq!(
        kind(store.put(pod("a"), Expect::Absent, body()).await),
        (Kind::Exists, "pods default/a exists already".into())
    );
    assert_eq!(
        kind(store.put(pod("a"), Expect::Revision(1), body()).await),
        (Kind::Conflict, "pods default/a is at revision 2, and 1 was expected".into())
    );
    let changed = store.put(pod("a"), Expect::Revision(made.revision), body()).await.unwrap();
    assert_eq!(
        kind(store.delete(pod("a"), Expect::Revision(made.revision), body()).await),
        (Kind::Conflict, "pods default/a is at revision 3, and 2 was expected".into())
    );
    store.delete(pod("a"), Expect::Revision(changed.revision), body()).await.unwrap();
    let absent = (Kind::Absent, "pods default/a does not exist".to_owned());
    assert_eq!(kind(store.delete(pod("a"), Expect::Any, body()).await), absent);
    assert_eq!(kind(store.put(pod("a"), Expect::Revision(3), body()).await), absent);
    assert_eq!(kind(store.delete(pod("a"), Expect::Absent, body()).await).0, Kind::Invalid);
    // Nothing of all this took a revision.
    assert_eq!(store.revision(), 4);
    assert_eq!(kind(store.put(pod(""), Expect::Any, body()).await).0, Kind::Invalid);
    let large = Bytes::from(vec![b'x'; BODY_BYTES + 1]);
    assert_eq!(kind(store.put(pod("a"), Expect::Any, large).await).0, Kind::Invalid);
    store.put(pod("a"), Expect::Any, Bytes::from(vec![b'x'; BODY_BYTES])).await.unwrap();
}

#[tokio::test]
async fn of_many_writers_that_expect_the_same_one_wins() {
    let place = Place::new();
    let store = place.open();
    let mut revision = put(&store, pod("a"), "").await.revision;
    for _ in 0..20 {
        let writers = (0..50).map(|_| store.put(pod("a"), Expect::Revision(revision), Bytes::new()));
        let outcomes = join_all(writers).await;
        let won: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
        assert_eq!(won.len(), 1);
        assert_eq!(won[0].revision, revision + 1);
        for lost in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            assert_eq!(lost.kind(), Kind::Conflict);
        }
        revision += 1;
    }
}

#[tokio::test]
async fn pages_follow_one_another_at_one_revision_while_things_change() {
    let place = Place::new();
    let store = place.open();
    for (namespace, name) in [("a", "1"), ("a", "2"), ("a-b", "1"), ("b", "1"), ("b", "2")] {
        put(&store, Key::new("pods", namespace, name), "x").await;
    }
    put(&store, Key::new("podtemplates", "a", "0"), "x").await;
    let first = store.list("pods", None, None, Some(2), None).unwrap();
    assert_eq!(shown(&first.entries), ["a/1@2=x", "a/2@3=x"]);
    assert_eq!((first.revision, first.remaining), (7, 3));

    delete(&store, Key::new("pods", "b", "1")).await;
    put(&store, Key::new("pods", "b", "2"), "changed").await;
    put(&store, Key::new("pods", "a-b", "0"), "new").await;
    put(&store, Key::new("pods", "a-b", "0"), "newer").await;
    let rest = store.list("pods", None, Some(("a", "2")), Some(2), Some(7)).unwrap();
    assert_eq!(shown(&rest.entries), ["a-b/1@4=x", "b/1@5=x"]);
    assert_eq!((rest.revision, rest.remaining), (7, 1));
    let last = store.list("pods", None, Some(("b", "1")), Some(2), Some(7)).unwrap();
    assert_eq!((shown(&last.entries), last.remaining), (vec!["b/2@6=x".to_owned()], 0));
    let now = store.list("pods", Some("a-b"), None, None, None).unwrap();
    assert_eq!(shown(&now.entries), ["a-b/0@11=newer", "a-b/1@4=x"]);
    // After the end, before the beginning, and of nothing.
    assert!(store.list("pods", Some("a"), Some(("b", "")), None, None).unwrap().entries.is_empty());
    assert_eq!(store.list("pods", Some("b"), Some(("a", "z")), None, None).unwrap().entries.len(), 1);
    assert!(store.list("pod", None, None, None, None).unwrap().entries.is_empty());
    assert_eq!(kind(store.list("pods", None, None, None, Some(12))).0, Kind::Future);
    assert_eq!(kind(store.list("pods", None, None, None, Some(0))).0, Kind::Compacted);
}

#[tokio::test]
async fn a_watch_tells_every_change_once_also_of_before_a_restart() {
    let place = Place::new();
    let store = place.open();
    put(&store, pod("a"), "1").await;
    put(&store, Key::new("nodes", "", "n"), "node").await;
    put(&store, Key::new("pods", "other", "a"), "other").await;
    put(&store, pod("a"), "2").await;
    delete(&store, pod("a")).await;
    let told = |change: vaquita_store::Change| {
        let body = |entry: &vaquita_store::Entry| String::from_utf8_lossy(&entry.body).into_owned();
        (change.what, change.entry.revision, body(&change.entry), change.before.as_ref().map(body))
    };
    let check = async |store: &vaquita_store::Store| {
        let mut watcher = store.watch("pods", Some("default"), 1).unwrap();
        assert_eq!(told(watcher.next().await.unwrap()), (What::Added, 2, "1".into(), None));
        assert_eq!(told(watcher.next().await.unwrap()), (What::Modified, 5, "2".into(), Some("1".into())));
        assert_eq!(told(watcher.next().await.unwrap()), (What::Deleted, 6, "last".into(), Some("2".into())));
        assert_eq!(watcher.try_next().unwrap(), None);
        let mut all = store.watch("pods", None, 2).unwrap();
        assert_eq!(all.revision(), 2);
        assert_eq!(told(all.next().await.unwrap()), (What::Added, 4, "other".into(), None));
        assert_eq!(all.revision(), 4);
    };
    check(&store).await;
    drop(store);
    let store = place.open();
    check(&store).await;
    assert_eq!(kind(store.watch("pods", None, 7).map(drop)).0, Kind::Future);

    // What comes wakes who waits; what is none of its business does not, and moves the bookmark.
    let mut watcher = store.watch("pods", Some("default"), 6).unwrap();
    put(&store, Key::new("nodes", "", "n"), "again").await;
    assert!(watcher.next().now_or_never().is_none());
    assert_eq!(watcher.revision(), 7);
    let waiting = tokio::spawn(async move { (watcher.next().await, watcher) });
    tokio::task::yield_now().await;
    put(&store, pod("b"), "new").await;
    let (change, mut watcher) = waiting.await.unwrap();
    assert_eq!(told(change.unwrap()), (What::Added, 8, "new".into(), None));
    drop(store);
    assert_eq!(kind(watcher.next().await).0, Kind::Closed);
}

#[tokio::test]
async fn history_has_bounds_and_who_is_overtaken_hears_of_it() {
    let place = Place::new();
    let mut options = Options::default();
    options.history_events = 10;
    let store = place.open_with(options.clone());
    put(&store, Key::new("nodes", "", "n"), "node").await;
    let mut slow = store.watch("pods", None, 2).unwrap();
    let mut other = store.watch("nodes", None, 2).unwrap();
    for number in 0..30 {
        put(&store, pod("a"), &number.to_string()).await;
    }
    let stats = store.stats();
    assert_eq!((stats.revision, stats.compacted), (32, 22));
    assert_eq!(kind(slow.next().await).0, Kind::Compacted);
    assert_eq!(kind(slow.next().await).0, Kind::Compacted);
    // Nothing happened to nodes, so nothing was missed.
    assert_eq!(other.try_next().unwrap(), None);
    assert_eq!(other.revision(), 32);
    assert_eq!(
        kind(store.watch("pods", None, 21).map(drop)),
        (
            Kind::Compacted,
            "watch pods: changes since revision 21 are no longer known: history begins after 22".into()
        )
    );
    assert_eq!(store.watch("pods", None, 22).unwrap().next().await.unwrap().entry.revision, 23);
    assert_eq!(kind(store.list("pods", None, None, None, Some(21))).0, Kind::Compacted);
    assert_eq!(shown(&store.list("pods", None, None, None, Some(22)).unwrap().entries), ["default/a@22=19"]);
    drop(store);
    let store = place.open_with(options.clone());
    assert_eq!(store.stats(), stats);
    drop(store);

    // By age: what is older than nothing goes with the next change.
    options.history_age = Duration::ZERO;
    let store = place.open_with(options);
    std::thread::sleep(Duration::from_millis(2100));
    put(&store, pod("b"), "x").await;
    assert_eq!(store.stats().compacted, 32);
}

#[tokio::test]
async fn history_has_a_bound_of_bytes() {
    let place = Place::new();
    let mut options = Options::default();
    options.history_bytes = 100_000;
    let store = place.open_with(options);
    let body = "x".repeat(10_000);
    for _ in 0..50 {
        put(&store, pod("a"), &body).await;
    }
    let stats = store.stats();
    assert!(stats.history_bytes <= 120_000, "{stats:?}");
    assert!(stats.revision - stats.compacted >= 9, "{stats:?}");
    assert_eq!((stats.entries, stats.bytes), (1, 10_000));
}

#[tokio::test]
async fn one_process_has_it_at_a_time_and_another_file_is_no_store() {
    let place = Place::new();
    let store = place.open();
    let error = vaquita_store::Store::open(&place.path(), Options::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert!(error.to_string().ends_with("cluster/store.redb: another process has it open"), "{error}");
    drop(store);
    std::fs::write(place.path(), "something else, long enough to be looked at".repeat(1000)).unwrap();
    let before = std::fs::read(place.path()).unwrap();
    let error = vaquita_store::Store::open(&place.path(), Options::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("restore a backup, or move the file away"), "{error}");
    assert_eq!(std::fs::read(place.path()).unwrap(), before);
}

#[tokio::test]
async fn a_future_that_is_dropped_has_written_all_or_nothing() {
    let place = Place::new();
    let store = place.open();
    for round in 0..200 {
        let name = format!("p{round}");
        let mut writing = Box::pin(store.put(pod(&name), Expect::Absent, Bytes::from_static(b"whole")));
        let _ = (&mut writing).now_or_never();
        drop(writing);
    }
    let last = put(&store, pod("z"), "last").await;
    let list = store.list("pods", None, None, None, None).unwrap();
    assert!(list.entries[..list.entries.len() - 1].iter().all(|entry| entry.body == "whole"));
    assert_eq!(last.revision, list.entries.len() as u64 + 1);
}
