//! `--all-kinds`: what components from elsewhere need to find, so that they can be attached and do their work.

use std::collections::BTreeSet;

use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::{Cluster, clients};

/// The kinds that a kube-controller-manager and a kube-scheduler 1.36 follow; they do nothing before all are told.
const FOLLOWED: &[&str] = &[
    "admissionregistration.k8s.io/v1 validatingadmissionpolicies",
    "apps/v1 controllerrevisions",
    "apps/v1 daemonsets",
    "apps/v1 deployments",
    "apps/v1 replicasets",
    "apps/v1 statefulsets",
    "autoscaling/v2 horizontalpodautoscalers",
    "batch/v1 cronjobs",
    "batch/v1 jobs",
    "certificates.k8s.io/v1 certificatesigningrequests",
    "coordination.k8s.io/v1 leases",
    "discovery.k8s.io/v1 endpointslices",
    "flowcontrol.apiserver.k8s.io/v1 flowschemas",
    "networking.k8s.io/v1 ingresses",
    "networking.k8s.io/v1 ipaddresses",
    "networking.k8s.io/v1 networkpolicies",
    "networking.k8s.io/v1 servicecidrs",
    "node.k8s.io/v1 runtimeclasses",
    "policy/v1 poddisruptionbudgets",
    "rbac.authorization.k8s.io/v1 clusterroles",
    "resource.k8s.io/v1 deviceclasses",
    "resource.k8s.io/v1 resourceclaims",
    "resource.k8s.io/v1 resourceclaimtemplates",
    "resource.k8s.io/v1 resourceslices",
    "scheduling.k8s.io/v1 priorityclasses",
    "storage.k8s.io/v1 csidrivers",
    "storage.k8s.io/v1 csinodes",
    "storage.k8s.io/v1 csistoragecapacities",
    "storage.k8s.io/v1 storageclasses",
    "storage.k8s.io/v1 volumeattachments",
    "storage.k8s.io/v1 volumeattributesclasses",
    "v1 configmaps",
    "v1 endpoints",
    "v1 limitranges",
    "v1 namespaces",
    "v1 nodes",
    "v1 persistentvolumeclaims",
    "v1 persistentvolumes",
    "v1 pods",
    "v1 podtemplates",
    "v1 replicationcontrollers",
    "v1 resourcequotas",
    "v1 secrets",
    "v1 serviceaccounts",
    "v1 services",
];

async fn get(client: &Client, path: &str, accept: &str) -> Vec<u8> {
    let request = http::Request::get(path).header("Accept", accept).body(Body::empty()).unwrap();
    let answer = client.send(request).await.unwrap();
    let (code, body) = (answer.status(), answer.into_body().collect().await.unwrap().to_bytes());
    assert!(code.is_success(), "{path}: {code} {}", String::from_utf8_lossy(&body));
    body.to_vec()
}

async fn json(client: &Client, path: &str, accept: &str) -> Value {
    serde_json::from_slice(&get(client, path, accept).await).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Group version and plural of everything that can be watched, by discovery as it is today.
async fn aggregated(client: &Client) -> BTreeSet<String> {
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let mut found = BTreeSet::new();
    for path in ["/api", "/apis"] {
        for group in json(client, path, accept).await["items"].as_array().unwrap() {
            let name = group["metadata"]["name"].as_str().unwrap_or_default();
            for version in group["versions"].as_array().unwrap() {
                let version_name = text(&version["version"]);
                let full =
                    if name.is_empty() { version_name.to_owned() } else { format!("{name}/{version_name}") };
                for resource in version["resources"].as_array().unwrap() {
                    if resource["verbs"].as_array().unwrap().contains(&json!("watch")) {
                        found.insert(format!("{full} {}", text(&resource["resource"])));
                    }
                }
            }
        }
    }
    found
}

/// The same by the older form: a list of groups, and a list of resources for each.
async fn piecewise(client: &Client) -> BTreeSet<String> {
    let plain = "application/json";
    let mut versions = vec![("v1".to_owned(), "/api/v1".to_owned())];
    for group in json(client, "/apis", plain).await["groups"].as_array().unwrap() {
        for version in group["versions"].as_array().unwrap() {
            let full = text(&version["groupVersion"]);
            versions.push((full.to_owned(), format!("/apis/{full}")));
        }
    }
    let mut found = BTreeSet::new();
    for (full, path) in versions {
        for resource in json(client, &path, plain).await["resources"].as_array().unwrap() {
            if resource["verbs"].as_array().unwrap().contains(&json!("watch")) {
                found.insert(format!("{full} {}", text(&resource["name"])));
            }
        }
    }
    found
}

#[test]
fn everything_that_components_follow_is_told_from_its_beginning() {
    let cluster = Cluster::up_with(&["--all-kinds"]);
    cluster.node.wait(async {
        let client = clients::client(&cluster).await;
        let found = aggregated(&client).await;
        assert_eq!(found, piecewise(&client).await, "the two forms of discovery");
        let missing: Vec<_> = FOLLOWED.iter().filter(|wanted| !found.contains(**wanted)).collect();
        assert!(missing.is_empty(), "not served: {missing:?}");
        let mut watches = tokio::task::JoinSet::new();
        for resource in found {
            let client = client.clone();
            watches.spawn(async move {
                let (version, plural) = resource.split_once(' ').unwrap();
                let root = if version.contains('/') { "/apis" } else { "/api" };
                let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1";
                let told = get(&client, &format!("{root}/{version}/{plural}?{query}"), "application/json").await;
                let events: Vec<Value> =
                    serde_json::Deserializer::from_slice(&told).into_iter().map(Result::unwrap).collect();
                let end = events.iter().position(|event| {
                    event["type"] == "BOOKMARK"
                        && event["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true"
                });
                let end = end.unwrap_or_else(|| panic!("{resource} has no end of its beginning"));
                assert!(events[..end].iter().all(|event| event["type"] == "ADDED"), "{resource}");
                let bookmark = &events[end]["object"];
                assert_eq!(bookmark["apiVersion"], version, "{resource}");
                assert!(text(&bookmark["metadata"]["resourceVersion"]).parse::<u64>().unwrap() > 0);
            });
        }
        while let Some(watched) = watches.join_next().await {
            watched.unwrap();
        }
    });
    cluster.finish();
}

/// `kubectl delete --cascade` in its three ways, over three generations.
#[test]
fn deletions_cascade_as_kubectl_asks() {
    let cluster = Cluster::up();
    let make = |name: &str, owner: Option<&str>| {
        let references = owner.map_or_else(|| json!([]), |owner| {
            let uid = cluster.kubectl(&["get", "configmap", owner, "-o", "jsonpath={.metadata.uid}"]);
            json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": uid, "blockOwnerDeletion": true }])
        });
        let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "ownerReferences": references } });
        cluster.kubectl_with(&map.to_string(), &["create", "-f", "-"]);
    };
    for (cascade, left) in
        [("background", ""), ("foreground", ""), ("orphan", "configmap/child\nconfigmap/grandchild\n")]
    {
        make("owner", None);
        make("child", Some("owner"));
        make("grandchild", Some("child"));
        cluster.kubectl(&["delete", "configmap", "owner", &format!("--cascade={cascade}")]);
        crate::support::eventually(cascade, || {
            let all = cluster.kubectl(&["get", "configmaps", "-o", "name"]);
            (all.replace("configmap/kube-root-ca.crt\n", "") == left).then_some(())
        });
    }
    assert_eq!(
        cluster.kubectl(&["get", "configmap", "child", "-o", "jsonpath={.metadata.ownerReferences}"]),
        ""
    );
    assert_eq!(cluster.kubectl(&["create", "namespace", "a"]), "namespace/a created\n");
    cluster.kubectl(&["create", "secret", "generic", "s", "-n", "a", "--from-literal=a=b"]);
    assert_eq!(cluster.kubectl(&["delete", "namespace", "a"]), "namespace \"a\" deleted\n");
    assert_eq!(cluster.kubectl(&["get", "secrets", "-A", "-o", "name"]), "");
    cluster.finish();
}
