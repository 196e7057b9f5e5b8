//! The verbs in the process, on a store of their own.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

use std::time::Duration;

use serde_json::{Value, json};
use vaquita_apiserver::kinds::CONFIG_MAP;
use vaquita_apiserver::{
    Cluster, DeleteOptions, Deletion, FieldSelector, ListOptions, Options, Patch, Propagation, Reason,
    VersionMatch, Watch, WatchEvent, WatchOptions, Write,
};
use vaquita_store::Store;

struct Home {
    cluster: Cluster,
    write: Write,
    _dir: tempfile::TempDir,
}

async fn home() -> Home {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.redb"), vaquita_store::Options::default()).unwrap();
    let cluster = Cluster::new(store, Options::default());
    cluster.bootstrap().await.unwrap();
    Home { cluster, write: Write::system("test"), _dir: dir }
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": name}}, "data": {"a": "1"}})
}

impl Home {
    async fn create(&self, name: &str) -> Value {
        self.cluster.create(&CONFIG_MAP, "default", map(name), &self.write).await.unwrap().value()
    }

    async fn set(&self, name: &str, data: &str) -> Value {
        let set = |value: &mut Value| {
            value["data"]["a"] = data.into();
            Ok(true)
        };
        let done = self.cluster.modify(&CONFIG_MAP, "default", name, None, &self.write, set).await;
        done.unwrap().value()
    }

    fn watch(&self, options: &WatchOptions) -> Watch {
        self.cluster.watch(&CONFIG_MAP, Some("default"), options).unwrap()
    }
}

async fn next(watch: &mut Watch) -> String {
    let event =
        tokio::time::timeout(Duration::from_secs(20), watch.next()).await.expect("an event").expect("no end");
    let name = |object: &vaquita_apiserver::Object| object.name().to_owned();
    match &event {
        WatchEvent::Added(object) => format!("ADDED {}", name(object)),
        WatchEvent::Modified(object) => format!("MODIFIED {}", name(object)),
        WatchEvent::Deleted(object) => format!("DELETED {}", name(object)),
        WatchEvent::Bookmark { initial_end, .. } => format!("BOOKMARK {initial_end}"),
        WatchEvent::Failed(status) => format!("FAILED {}", status.code),
    }
}

#[tokio::test]
async fn an_object_is_made_read_changed_and_deleted() {
    let home = home().await;
    let made = home.create("a").await;
    assert_eq!(made["kind"], "ConfigMap");
    assert_eq!(made["metadata"]["namespace"], "default");
    assert_eq!(made["metadata"]["uid"].as_str().unwrap().len(), 36);
    let read = home.cluster.get(&CONFIG_MAP, "default", "a").unwrap();
    assert_eq!(read.value(), made);
    assert_eq!(read.uid(), made["metadata"]["uid"]);

    let taken = home.cluster.create(&CONFIG_MAP, "default", map("a"), &home.write).await.unwrap_err();
    assert_eq!((taken.code, taken.message.as_str()), (409, r#"configmaps "a" already exists"#));

    let mut changed = made.clone();
    changed["data"]["a"] = "2".into();
    let changed = home.cluster.update(&CONFIG_MAP, "default", "a", None, changed, &home.write).await.unwrap();
    assert_ne!(changed.revision, read.revision);
    // The first version is old now.
    let stale =
        home.cluster.update(&CONFIG_MAP, "default", "a", None, made.clone(), &home.write).await.unwrap_err();
    assert_eq!(stale.reason, Reason::Conflict);
    assert_eq!(
        stale.message,
        r#"Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again"#
    );

    let gone = home
        .cluster
        .delete(&CONFIG_MAP, "default", "a", &DeleteOptions::default(), &home.write)
        .await
        .unwrap();
    assert!(matches!(gone, Deletion::Gone(_)), "{gone:?}");
    let status = home.cluster.get(&CONFIG_MAP, "default", "a").unwrap_err();
    assert_eq!(status.message, r#"configmaps "a" not found"#);
}

#[tokio::test]
async fn a_change_of_nothing_keeps_the_version() {
    let home = home().await;
    let made = home.create("a").await;
    let same =
        home.cluster.update(&CONFIG_MAP, "default", "a", None, made.clone(), &home.write).await.unwrap();
    assert_eq!(same.value(), made);
    let patch = Patch::Merge(json!({"data": {"a": "1"}}));
    let same = home.cluster.patch(&CONFIG_MAP, "default", "a", None, &patch, &home.write).await.unwrap();
    assert_eq!(same.value(), made);
    let patch = Patch::Strategic(json!({"data": {"b": "2"}}));
    let other = home.cluster.patch(&CONFIG_MAP, "default", "a", None, &patch, &home.write).await.unwrap();
    assert_eq!(other.value()["data"], json!({"a": "1", "b": "2"}));
    let patch = Patch::Json(json!([{"op": "remove", "path": "/data/a"}]));
    let other = home.cluster.patch(&CONFIG_MAP, "default", "a", None, &patch, &home.write).await.unwrap();
    assert_eq!(other.value()["data"], json!({"b": "2"}));
    let patch = Patch::Json(json!([{"op": "test", "path": "/data/b", "value": "3"}]));
    let status =
        home.cluster.patch(&CONFIG_MAP, "default", "a", None, &patch, &home.write).await.unwrap_err();
    assert_eq!(status.code, 422);
}

#[tokio::test]
async fn names_are_made_up_and_checked() {
    let home = home().await;
    let mut object = map("");
    object["metadata"] = json!({"generateName": "web-"});
    let made = home.cluster.create(&CONFIG_MAP, "default", object, &home.write).await.unwrap();
    assert!(made.name().starts_with("web-") && made.name().len() == 9, "{}", made.name());
    let status = home.cluster.create(&CONFIG_MAP, "default", map("No"), &home.write).await.unwrap_err();
    assert_eq!(status.code, 422);
    assert!(
        status
            .message
            .starts_with(r#"ConfigMap "No" is invalid: metadata.name: Invalid value: "No": a lowercase"#),
        "{status}"
    );
    let mut elsewhere = map("x");
    elsewhere["metadata"]["namespace"] = "other".into();
    let status = home.cluster.create(&CONFIG_MAP, "default", elsewhere, &home.write).await.unwrap_err();
    assert_eq!(
        status.message,
        "the namespace of the provided object does not match the namespace sent on the request"
    );
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let home = home().await;
    let write = Write { dry_run: true, ..home.write.clone() };
    let made = home.cluster.create(&CONFIG_MAP, "default", map("a"), &write).await.unwrap().value();
    assert_eq!(made["metadata"].get("resourceVersion"), None);
    assert!(home.cluster.get(&CONFIG_MAP, "default", "a").is_err());
    let made = home.create("a").await;
    let patch = Patch::Merge(json!({"data": {"a": "2"}}));
    let patched =
        home.cluster.patch(&CONFIG_MAP, "default", "a", None, &patch, &write).await.unwrap().value();
    assert_eq!(patched["data"]["a"], "2");
    home.cluster.delete(&CONFIG_MAP, "default", "a", &DeleteOptions::default(), &write).await.unwrap();
    assert_eq!(home.cluster.get(&CONFIG_MAP, "default", "a").unwrap().value(), made);
}

#[tokio::test]
async fn lists_come_in_pages_of_one_state() {
    let home = home().await;
    for name in ["a", "b", "c", "d", "e"] {
        home.create(name).await;
    }
    let names = |list: &vaquita_apiserver::List| -> Vec<String> {
        list.items.iter().map(|item| item.name().to_owned()).collect()
    };
    let page = ListOptions { limit: 2, ..ListOptions::default() };
    let first = home.cluster.list(&CONFIG_MAP, Some("default"), &page).unwrap();
    assert_eq!((names(&first), first.remaining), (vec!["a".to_owned(), "b".to_owned()], Some(3)));
    home.cluster.delete(&CONFIG_MAP, "default", "c", &DeleteOptions::default(), &home.write).await.unwrap();
    let second = ListOptions { continued: first.continued.clone(), ..page.clone() };
    let second = home.cluster.list(&CONFIG_MAP, Some("default"), &second).unwrap();
    assert_eq!((names(&second), second.revision), (vec!["c".to_owned(), "d".to_owned()], first.revision));
    let third = ListOptions { continued: second.continued, ..page };
    let third = home.cluster.list(&CONFIG_MAP, None, &third).unwrap();
    assert_eq!((names(&third), third.continued.as_str(), third.remaining), (vec!["e".to_owned()], "", None));

    let selected =
        ListOptions { labels: "app in (a,e)".parse().unwrap(), limit: 1, ..ListOptions::default() };
    let list = home.cluster.list(&CONFIG_MAP, None, &selected).unwrap();
    let rest = ListOptions { continued: list.continued.clone(), ..selected };
    let rest = home.cluster.list(&CONFIG_MAP, None, &rest).unwrap();
    assert_eq!(
        (names(&list), names(&rest), rest.continued.as_str()),
        (vec!["a".to_owned()], vec!["e".to_owned()], "")
    );

    let named = ListOptions { fields: FieldSelector::equal("metadata.name", "b"), ..ListOptions::default() };
    assert_eq!(names(&home.cluster.list(&CONFIG_MAP, Some("default"), &named).unwrap()), ["b"]);
    let unknown = ListOptions { fields: FieldSelector::equal("data.a", "1"), ..ListOptions::default() };
    assert_eq!(home.cluster.list(&CONFIG_MAP, None, &unknown).unwrap_err().code, 400);
    let old = ListOptions {
        version: Some(first.revision),
        version_match: Some(VersionMatch::Exact),
        ..ListOptions::default()
    };
    assert_eq!(home.cluster.list(&CONFIG_MAP, None, &old).unwrap().items.len(), 5);
    let future = ListOptions { version: Some(1000), ..ListOptions::default() };
    assert_eq!(home.cluster.list(&CONFIG_MAP, None, &future).unwrap_err().code, 504);
    let token = ListOptions { continued: "x".to_owned(), ..ListOptions::default() };
    assert_eq!(home.cluster.list(&CONFIG_MAP, None, &token).unwrap_err().code, 400);
}

#[tokio::test]
async fn a_watch_tells_each_change_once() {
    let home = home().await;
    home.create("a").await;
    let from = home.cluster.list(&CONFIG_MAP, None, &ListOptions::default()).unwrap().revision;
    let mut later = home.watch(&WatchOptions { version: Some(from), ..WatchOptions::default() });
    let mut all =
        home.watch(&WatchOptions { initial: Some(true), bookmarks: true, ..WatchOptions::default() });
    assert_eq!(next(&mut all).await, "ADDED a");
    assert_eq!(next(&mut all).await, "BOOKMARK true");
    home.create("b").await;
    home.set("a", "2").await;
    home.cluster.delete(&CONFIG_MAP, "default", "a", &DeleteOptions::default(), &home.write).await.unwrap();
    for watch in [&mut later, &mut all] {
        assert_eq!(next(watch).await, "ADDED b");
        assert_eq!(next(watch).await, "MODIFIED a");
        assert_eq!(next(watch).await, "DELETED a");
    }
}

#[tokio::test]
async fn what_comes_into_and_leaves_a_selection_is_added_and_deleted() {
    let home = home().await;
    let labels = "app=x".parse().unwrap();
    let mut watch = home.watch(&WatchOptions { labels, ..WatchOptions::default() });
    home.create("a").await;
    let label = |label: &str| Patch::Merge(json!({"metadata": {"labels": {"app": label}}}));
    for (name, event) in [("x", "ADDED a"), ("y", "DELETED a"), ("x", "ADDED a")] {
        home.cluster.patch(&CONFIG_MAP, "default", "a", None, &label(name), &home.write).await.unwrap();
        assert_eq!(next(&mut watch).await, event);
    }
    home.set("a", "2").await;
    assert_eq!(next(&mut watch).await, "MODIFIED a");
}

#[tokio::test]
async fn a_watch_ends_in_time_after_a_bookmark() {
    let home = home().await;
    home.create("a").await;
    let options = WatchOptions {
        version: Some(home.cluster.store().revision()),
        bookmarks: true,
        timeout: Some(Duration::from_millis(20)),
        ..WatchOptions::default()
    };
    let mut watch = home.watch(&options);
    assert_eq!(
        watch.next().await.map(|event| matches!(event, WatchEvent::Bookmark { initial_end: false, .. })),
        Some(true)
    );
    assert!(watch.next().await.is_none());
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn finalizers_hold_what_is_deleted() {
    let home = home().await;
    let mut object = map("a");
    object["metadata"]["finalizers"] = json!(["example.com/mine"]);
    home.cluster.create(&CONFIG_MAP, "default", object, &home.write).await.unwrap();
    let foreground = DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
    let pending = home.cluster.delete(&CONFIG_MAP, "default", "a", &foreground, &home.write).await.unwrap();
    let Deletion::Pending(pending) = pending else { panic!("{pending:?}") };
    let pending = pending.value();
    assert_eq!(pending["metadata"]["finalizers"], json!(["example.com/mine", "foregroundDeletion"]));
    assert!(pending["metadata"]["deletionTimestamp"].is_string());
    let again = home.cluster.create(&CONFIG_MAP, "default", map("a"), &home.write).await.unwrap_err();
    assert_eq!(again.message, r#"object is being deleted: configmaps "a" already exists"#);
    let more = Patch::Merge(
        json!({"metadata": {"finalizers": ["example.com/mine", "foregroundDeletion", "example.com/new"]}}),
    );
    let status = home.cluster.patch(&CONFIG_MAP, "default", "a", None, &more, &home.write).await.unwrap_err();
    assert_eq!(status.code, 422);
    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    home.cluster.patch(&CONFIG_MAP, "default", "a", None, &none, &home.write).await.unwrap();
    assert_eq!(home.cluster.get(&CONFIG_MAP, "default", "a").unwrap_err().code, 404);
}

#[tokio::test]
async fn preconditions_hold() {
    let home = home().await;
    let made = home.create("a").await;
    let other = DeleteOptions { uid: Some("x".to_owned()), ..DeleteOptions::default() };
    let status = home.cluster.delete(&CONFIG_MAP, "default", "a", &other, &home.write).await.unwrap_err();
    assert_eq!(status.code, 409);
    let old = DeleteOptions { version: Some(1000), ..DeleteOptions::default() };
    assert_eq!(
        home.cluster.delete(&CONFIG_MAP, "default", "a", &old, &home.write).await.unwrap_err().code,
        409
    );
    let uid = made["metadata"]["uid"].as_str().map(str::to_owned);
    let right = DeleteOptions { uid, ..DeleteOptions::default() };
    home.cluster.delete(&CONFIG_MAP, "default", "a", &right, &home.write).await.unwrap();
}

#[tokio::test]
async fn writers_that_meet_all_get_through() {
    let home = home().await;
    home.create("a").await;
    let add = |index: usize| {
        let (cluster, write) = (home.cluster.clone(), home.write.clone());
        tokio::spawn(async move {
            let patch = Patch::Merge(json!({"data": {format!("k{index}"): "v"}}));
            cluster.patch(&CONFIG_MAP, "default", "a", None, &patch, &write).await.map(drop)
        })
    };
    for task in (0..8).map(add).collect::<Vec<_>>() {
        task.await.unwrap().unwrap();
    }
    let data = home.cluster.get(&CONFIG_MAP, "default", "a").unwrap().value()["data"].clone();
    assert_eq!(data.as_object().unwrap().len(), 9);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let home = home().await;
    for name in ["a", "b", "c"] {
        home.create(name).await;
    }
    let some = ListOptions { labels: "app!=b".parse().unwrap(), ..ListOptions::default() };
    let options = DeleteOptions::default();
    let gone = home.cluster.delete_collection(&CONFIG_MAP, Some("default"), &some, &options, &home.write);
    assert_eq!(gone.await.unwrap().len(), 2);
    assert_eq!(home.cluster.list(&CONFIG_MAP, None, &ListOptions::default()).unwrap().items.len(), 1);
}
