//! The controllers on a cluster in the process, with a store of its own and no node.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::time::Duration;

use serde_json::{Value, json};
use vaquita_apiserver::kinds::{CONFIG_MAP, NAMESPACE, NODE, POD, RESOURCE_QUOTA, SECRET, SERVICE_ACCOUNT};
use vaquita_apiserver::{
    Cluster, DeleteOptions, Kind, Object, Options, Propagation, WatchEvent, WatchOptions, Write,
};
use vaquita_control::Controllers;
use vaquita_store::Store;

struct Home {
    cluster: Cluster,
    write: Write,
    controllers: Option<Controllers>,
    _dir: tempfile::TempDir,
}

async fn home() -> Home {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.redb"), vaquita_store::Options::default()).unwrap();
    let cluster = Cluster::new(store, Options::default());
    cluster.bootstrap().await.unwrap();
    let controllers = Controllers::start(cluster.clone(), "the root".to_owned());
    let home = Home { cluster, write: Write::system("test"), controllers: Some(controllers), _dir: dir };
    home.there(&SERVICE_ACCOUNT, "default", "default").await;
    home
}

impl Home {
    async fn create(&self, kind: &'static Kind, namespace: &str, object: Value) -> Value {
        self.cluster.create(kind, namespace, object, &self.write).await.unwrap().value()
    }

    /// A ConfigMap that names others as its owners.
    async fn map(&self, name: &str, owners: &[&Value]) -> Value {
        let reference = |owner: &&Value| {
            json!({
                "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
                "uid": owner["metadata"]["uid"], "blockOwnerDeletion": true,
            })
        };
        let owners: Vec<Value> = owners.iter().map(reference).collect();
        self.create(
            &CONFIG_MAP,
            "default",
            json!({ "metadata": { "name": name, "ownerReferences": owners } }),
        )
        .await
    }

    async fn delete(&self, kind: &'static Kind, namespace: &str, name: &str, propagation: Propagation) {
        let options = DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
        self.cluster.delete(kind, namespace, name, &options, &self.write).await.unwrap();
    }

    async fn change(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        change: impl Fn(&mut Value) + Send + Sync,
    ) {
        let changed = self.cluster.modify(kind, namespace, name, None, &self.write, |object| {
            change(object);
            Ok(true)
        });
        changed.await.unwrap();
    }

    /// Waits until an object is as it should be, or gone where `None` is what it should be.
    async fn until(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        well: impl Fn(Option<&Value>) -> bool,
    ) {
        let options =
            WatchOptions { version: Some(self.cluster.store().revision()), ..WatchOptions::default() };
        let mut watch =
            self.cluster.watch(kind, Some(namespace).filter(|one| !one.is_empty()), &options).unwrap();
        let mut now = self.cluster.get(kind, namespace, name).ok().map(|object| object.value());
        while !well(now.as_ref()) {
            let event = tokio::time::timeout(Duration::from_secs(60), watch.next()).await;
            let Ok(Some(event)) = event else { panic!("{} {name} stays {now:?}", kind.plural) };
            let mine = |object: &Object| object.name() == name;
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) if mine(&object) => {
                    now = Some(object.value())
                }
                WatchEvent::Deleted(object) if mine(&object) => now = None,
                _ => {}
            }
        }
    }

    async fn there(&self, kind: &'static Kind, namespace: &str, name: &str) {
        self.until(kind, namespace, name, |object| object.is_some()).await;
    }

    async fn gone(&self, kind: &'static Kind, namespace: &str, name: &str) {
        self.until(kind, namespace, name, |object| object.is_none()).await;
    }
}

fn pod(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": { "containers": [{ "name": "c", "image": "i" }] } })
}

fn condition<'a>(namespace: &'a Value, kind: &str) -> &'a Value {
    let conditions = namespace["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    conditions.iter().find(|one| one["type"] == kind).unwrap_or(&Value::Null)
}

#[tokio::test]
async fn every_namespace_has_an_account_and_the_root_certificate() {
    let home = home().await;
    home.create(&NAMESPACE, "", json!({ "metadata": { "name": "a" } })).await;
    for namespace in ["default", "kube-system", "a"] {
        home.there(&SERVICE_ACCOUNT, namespace, "default").await;
        home.until(&CONFIG_MAP, namespace, "kube-root-ca.crt", |map| {
            map.is_some_and(|map| map["data"] == json!({ "ca.crt": "the root" }))
        })
        .await;
    }
    home.until(&CONFIG_MAP, "kube-system", "extension-apiserver-authentication", |map| {
        map.is_some_and(|map| map["data"]["client-ca-file"] == "the root")
    })
    .await;
    home.delete(&SERVICE_ACCOUNT, "a", "default", Propagation::Background).await;
    home.there(&SERVICE_ACCOUNT, "a", "default").await;
    home.change(&CONFIG_MAP, "a", "kube-root-ca.crt", |map| {
        map["data"] = json!({ "ca.crt": "forged", "x": "y" })
    })
    .await;
    home.until(&CONFIG_MAP, "a", "kube-root-ca.crt", |map| {
        map.is_some_and(|map| map["data"] == json!({ "ca.crt": "the root" }))
    })
    .await;
}

#[tokio::test]
async fn a_deleted_namespace_is_emptied_and_goes() {
    let home = home().await;
    home.create(&NAMESPACE, "", json!({ "metadata": { "name": "a" } })).await;
    home.there(&SERVICE_ACCOUNT, "a", "default").await;
    for i in 0..100 {
        home.create(&SECRET, "a", json!({ "metadata": { "name": format!("s{i}") } })).await;
    }
    home.create(&SECRET, "default", json!({ "metadata": { "name": "other" } })).await;
    home.delete(&NAMESPACE, "", "a", Propagation::Background).await;
    home.gone(&NAMESPACE, "", "a").await;
    assert!(home.cluster.get(&SECRET, "a", "s0").is_err());
    assert!(home.cluster.get(&SERVICE_ACCOUNT, "a", "default").is_err());
    home.cluster.get(&SECRET, "default", "other").unwrap();
    // A new one of its name is another.
    home.create(&NAMESPACE, "", json!({ "metadata": { "name": "a" } })).await;
    home.there(&CONFIG_MAP, "a", "kube-root-ca.crt").await;
}

#[tokio::test]
async fn a_namespace_waits_for_its_pods_and_then_for_finalizers_and_says_so() {
    let home = home().await;
    home.create(&NODE, "", json!({ "metadata": { "name": "n" } })).await;
    home.create(&NAMESPACE, "", json!({ "metadata": { "name": "a" } })).await;
    home.there(&SERVICE_ACCOUNT, "a", "default").await;
    let mut placed = pod("p");
    placed["spec"]["nodeName"] = "n".into();
    home.create(&POD, "a", placed).await;
    let kept = json!({ "metadata": { "name": "kept", "finalizers": ["example.com/keep"] } });
    home.create(&SECRET, "a", kept).await;
    home.delete(&NAMESPACE, "", "a", Propagation::Background).await;
    // The pod is asked to end; only a node may say that it has. Nothing else goes before.
    home.until(&POD, "a", "p", |pod| pod.is_some_and(|pod| pod["metadata"]["deletionTimestamp"].is_string()))
        .await;
    home.until(&NAMESPACE, "", "a", |namespace| {
        let message = &condition(namespace.unwrap(), "NamespaceContentRemaining")["message"];
        message == "Some resources are remaining: pods. has 1 resource instances"
    })
    .await;
    assert!(home.cluster.get(&SERVICE_ACCOUNT, "a", "default").is_ok());
    let now = DeleteOptions { grace: Some(0), ..DeleteOptions::default() };
    home.cluster.delete(&POD, "a", "p", &now, &home.write).await.unwrap();
    home.until(&NAMESPACE, "", "a", |namespace| {
        let condition = condition(namespace.unwrap(), "NamespaceFinalizersRemaining");
        condition["status"] == "True"
            && condition["message"]
                == "Some content in the namespace has finalizers remaining: example.com/keep in 1 resource instances"
    })
    .await;
    home.change(&SECRET, "a", "kept", |secret| secret["metadata"]["finalizers"] = json!([])).await;
    home.gone(&NAMESPACE, "", "a").await;
}

#[tokio::test]
async fn what_is_owned_goes_after_its_owner() {
    let home = home().await;
    let owner = home.map("owner", &[]).await;
    let other = home.map("other", &[]).await;
    let child = home.map("child", &[&owner]).await;
    home.map("grandchild", &[&child]).await;
    home.map("shared", &[&owner, &other]).await;
    home.delete(&CONFIG_MAP, "default", "owner", Propagation::Background).await;
    home.gone(&CONFIG_MAP, "default", "grandchild").await;
    assert!(home.cluster.get(&CONFIG_MAP, "default", "child").is_err());
    home.until(&CONFIG_MAP, "default", "shared", |map| {
        let owners = map.unwrap()["metadata"]["ownerReferences"].as_array().unwrap();
        owners.len() == 1 && owners[0]["uid"] == other["metadata"]["uid"]
    })
    .await;
    home.delete(&CONFIG_MAP, "default", "other", Propagation::Background).await;
    home.gone(&CONFIG_MAP, "default", "shared").await;
}

#[tokio::test]
async fn an_owner_is_known_by_its_uid() {
    let home = home().await;
    let mut owner = home.map("owner", &[]).await;
    home.map("mine", &[&owner]).await;
    owner["metadata"]["uid"] = "00000000-0000-4000-8000-000000000000".into();
    // Its owner has the name of one that is there, and the uid of none.
    home.map("late", &[&owner]).await;
    home.gone(&CONFIG_MAP, "default", "late").await;
    // Nobody can tell of a kind that is not served.
    owner["apiVersion"] = "example.com/v1".into();
    home.map("foreign", &[&owner]).await;
    home.map("after", &[]).await;
    home.delete(&CONFIG_MAP, "default", "after", Propagation::Foreground).await;
    home.gone(&CONFIG_MAP, "default", "after").await;
    for name in ["mine", "foreign"] {
        home.cluster.get(&CONFIG_MAP, "default", name).unwrap();
    }
}

#[tokio::test]
async fn an_owner_that_is_deleted_in_the_foreground_goes_last() {
    let home = home().await;
    let owner = home.map("owner", &[]).await;
    let child = home.map("child", &[&owner]).await;
    home.map("grandchild", &[&child]).await;
    home.change(&CONFIG_MAP, "default", "grandchild", |map| {
        map["metadata"]["finalizers"] = json!(["example.com/keep"])
    })
    .await;
    home.delete(&CONFIG_MAP, "default", "owner", Propagation::Foreground).await;
    home.until(&CONFIG_MAP, "default", "grandchild", |map| {
        map.is_some_and(|map| map["metadata"]["deletionTimestamp"].is_string())
    })
    .await;
    for name in ["owner", "child"] {
        let object = home.cluster.get(&CONFIG_MAP, "default", name).unwrap().value();
        assert_eq!(object["metadata"]["finalizers"], json!(["foregroundDeletion"]), "{name}");
    }
    home.change(&CONFIG_MAP, "default", "grandchild", |map| map["metadata"]["finalizers"] = json!([])).await;
    home.gone(&CONFIG_MAP, "default", "owner").await;
    assert!(home.cluster.get(&CONFIG_MAP, "default", "child").is_err());
}

#[tokio::test]
async fn owners_in_a_circle_go_all_the_same() {
    let home = home().await;
    let first = home.map("first", &[]).await;
    let second = home.map("second", &[&first]).await;
    home.change(&CONFIG_MAP, "default", "first", |map| {
        map["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "v1", "kind": "ConfigMap", "name": "second", "uid": second["metadata"]["uid"], "blockOwnerDeletion": true,
        }]);
    })
    .await;
    home.delete(&CONFIG_MAP, "default", "first", Propagation::Foreground).await;
    home.gone(&CONFIG_MAP, "default", "first").await;
    home.gone(&CONFIG_MAP, "default", "second").await;
}

#[tokio::test]
async fn what_is_orphaned_stays_without_its_owner() {
    let home = home().await;
    let owner = home.map("owner", &[]).await;
    home.map("child", &[&owner]).await;
    home.delete(&CONFIG_MAP, "default", "owner", Propagation::Orphan).await;
    home.gone(&CONFIG_MAP, "default", "owner").await;
    let child = home.cluster.get(&CONFIG_MAP, "default", "child").unwrap().value();
    assert!(child["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty), "{child}");
}

#[tokio::test]
async fn quotas_tell_what_is_used() {
    let home = home().await;
    let quota = json!({ "metadata": { "name": "q" }, "spec": { "hard": { "secrets": "3", "pods": "2", "requests.cpu": "1" } } });
    home.create(&RESOURCE_QUOTA, "default", quota).await;
    let used = |used: Value| {
        move |quota: Option<&Value>| {
            let status = &quota.unwrap()["status"];
            status["used"] == used
                && status["hard"] == json!({ "secrets": "3", "pods": "2", "requests.cpu": "1" })
        }
    };
    home.until(
        &RESOURCE_QUOTA,
        "default",
        "q",
        used(json!({ "pods": "0", "requests.cpu": "0", "secrets": "0" })),
    )
    .await;
    home.create(&SECRET, "default", json!({ "metadata": { "name": "s" } })).await;
    let mut wants = pod("p");
    wants["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": "250m" } });
    home.create(&POD, "default", wants).await;
    home.until(
        &RESOURCE_QUOTA,
        "default",
        "q",
        used(json!({ "pods": "1", "requests.cpu": "250m", "secrets": "1" })),
    )
    .await;
    home.delete(&SECRET, "default", "s", Propagation::Background).await;
    home.until(
        &RESOURCE_QUOTA,
        "default",
        "q",
        used(json!({ "pods": "1", "requests.cpu": "250m", "secrets": "0" })),
    )
    .await;
}

/// What was asked for while nobody looked is done by the next who does.
#[tokio::test]
async fn a_start_does_what_was_left() {
    let mut home = home().await;
    home.controllers.take().unwrap().shutdown().await;
    home.create(&NAMESPACE, "", json!({ "metadata": { "name": "a" } })).await;
    home.create(&SECRET, "a", json!({ "metadata": { "name": "s" } })).await;
    let owner = home.map("owner", &[]).await;
    home.map("child", &[&owner]).await;
    home.delete(&CONFIG_MAP, "default", "owner", Propagation::Background).await;
    home.delete(&NAMESPACE, "", "a", Propagation::Background).await;
    home.cluster.get(&SECRET, "a", "s").unwrap();
    home.controllers = Some(Controllers::start(home.cluster.clone(), String::new()));
    home.gone(&CONFIG_MAP, "default", "child").await;
    home.gone(&NAMESPACE, "", "a").await;
}
