//! Clients other than kubectl: the kube crate, and Python's.

use std::path::Path;
use std::process::Command;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::{reflector, watcher};
use kube::{Api, Client};
use serde_json::json;

use super::Cluster;
use crate::support::{BUSYBOX, succeed};

pub(super) async fn client(cluster: &Cluster) -> Client {
    let kubeconfig = kube::config::Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    Client::try_from(config).unwrap()
}

fn config_map(name: &str) -> ConfigMap {
    let value = json!({"metadata": {"name": name, "labels": {"test": "kube"}}, "data": {"number": "0"}});
    serde_json::from_value(value).unwrap()
}

/// Watches with these settings while objects come, change and go: the copy is always what there is.
async fn reflect(api: &Api<ConfigMap>, config: watcher::Config) {
    let post = PostParams::default();
    for name in ["a", "b"] {
        api.create(&post, &config_map(name)).await.unwrap();
    }
    let (copy, writer) = reflector::store();
    let watched = watcher(api.clone(), config.labels("test=kube"));
    let mut events = Box::pin(reflector(writer, watched));
    while !matches!(events.next().await.unwrap().unwrap(), watcher::Event::InitDone) {}
    let names = || {
        let mut names: Vec<String> =
            copy.state().iter().filter_map(|map| map.metadata.name.clone()).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["a", "b"]);
    api.create(&post, &config_map("c")).await.unwrap();
    let patch = Patch::Merge(json!({"data": {"number": "1"}}));
    api.patch("a", &PatchParams::default(), &patch).await.unwrap();
    api.delete("b", &DeleteParams::default()).await.unwrap();
    // One event each, in the order of the writes.
    let mut told = Vec::new();
    while told.len() < 3 {
        match events.next().await.unwrap().unwrap() {
            watcher::Event::Apply(map) => told.push(format!("{} applied", map.metadata.name.unwrap())),
            watcher::Event::Delete(map) => told.push(format!("{} deleted", map.metadata.name.unwrap())),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(told, ["c applied", "a applied", "b deleted"]);
    assert_eq!(names(), ["a", "c"]);
    let a = copy.get(&reflector::ObjectRef::new("a").within("default")).unwrap();
    assert_eq!(a.data.as_ref().unwrap()["number"], "1");
    for name in ["a", "c"] {
        api.delete(name, &DeleteParams::default()).await.unwrap();
    }
}

#[test]
fn the_kube_crate_watches_and_writes() {
    let cluster = Cluster::up();
    cluster.node.wait(async {
        let api: Api<ConfigMap> = Api::namespaced(client(&cluster).await, "default");
        reflect(&api, watcher::Config::default()).await;
        reflect(&api, watcher::Config::default().streaming_lists()).await;
        // Who writes an old version is told so.
        let old = api.create(&PostParams::default(), &config_map("old")).await.unwrap();
        let patch = Patch::Strategic(json!({"data": {"number": "2"}}));
        api.patch("old", &PatchParams::default(), &patch).await.unwrap();
        let error = api.replace("old", &PostParams::default(), &old).await.unwrap_err();
        let kube::Error::Api(status) = error else { panic!("{error}") };
        assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"), "{}", status.message);
    });
    cluster.finish();
}

#[test]
fn the_python_client_runs_a_pod() {
    let cluster = Cluster::with_busybox();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("target/python/bin/python");
    assert!(python.exists(), "{} is not there: run hack/python", python.display());
    let mut command = Command::new(python);
    command.arg(root.join("tests/kubectl/client.py")).arg(BUSYBOX).env("KUBECONFIG", cluster.kubeconfig());
    let told = succeed(&command.output().unwrap());
    assert!(told.ends_with("delete\n"), "{told}");
    cluster.finish();
}
