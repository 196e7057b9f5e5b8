//! What is malformed, too large or too slow: the error that Kubernetes gives, and memory that is bounded.

use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::{Client, Config};
use serde_json::{Value, json};

use super::{Cluster, clients};
use crate::support::succeed;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Status code and Status object of an answer.
async fn post(client: &Client, path: &str, content: &str, body: impl Into<Vec<u8>>) -> (u16, Value) {
    let request =
        http::Request::post(path).header("Content-Type", content).body(Body::from(body.into())).unwrap();
    let answer = client.send(request).await.unwrap();
    let code = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    (
        code,
        serde_json::from_slice(&bytes)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&bytes))),
    )
}

#[test]
fn malformed_bodies_are_refused_in_words() {
    let cluster = Cluster::up();
    cluster.node.wait(async {
        let client = clients::client(&cluster).await;
        let json = "application/json";
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let cases: Vec<(&str, Vec<u8>, u16, &str)> = vec![
            (json, b"{".to_vec(), 400, "BadRequest"),
            (json, b"".to_vec(), 400, "BadRequest"),
            (json, b"[]".to_vec(), 400, "BadRequest"),
            (json, b"\xff\xfe".to_vec(), 400, "BadRequest"),
            (json, deep.into_bytes(), 400, "BadRequest"),
            (json, br#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}"#.to_vec(), 400, "BadRequest"),
            (json, br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":7}"#.to_vec(), 400, "BadRequest"),
            (json, br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"X"}}"#.to_vec(), 422, "Invalid"),
            ("application/yaml", b"a: [".to_vec(), 400, "BadRequest"),
            ("application/yaml", b"a: &a [*a]".to_vec(), 400, "BadRequest"),
            ("application/vnd.kubernetes.protobuf", b"k8s\0".to_vec(), 400, "BadRequest"),
            ("application/vnd.kubernetes.protobuf", b"k8s\0\x0a\xff\xff\xff\xff\x0f".to_vec(), 400, "BadRequest"),
            ("application/vnd.kubernetes.protobuf", b"not the magic".to_vec(), 400, "BadRequest"),
            ("text/plain", b"hello".to_vec(), 415, "UnsupportedMediaType"),
        ];
        for (content, body, code, reason) in cases {
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            let (seen, status) = post(&client, MAPS, content, body).await;
            assert_eq!((seen, &status["reason"]), (code, &json!(reason)), "{content} {shown}: {status}");
            assert_eq!(status["kind"], "Status", "{status}");
            assert!(!status["message"].as_str().unwrap().is_empty(), "{status}");
        }
        // One byte more than three MiB.
        let body = vec![b' '; 3 * 1024 * 1024 + 1];
        let (code, status) = post(&client, MAPS, json, body).await;
        assert_eq!((code, &status["reason"]), (413, &json!("RequestEntityTooLarge")), "{status}");
        // Not too large for a request, but for a ConfigMap.
        let large = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "large" }, "data": { "a": "x".repeat((1 << 20) + 1) } });
        let (code, status) = post(&client, MAPS, json, large.to_string()).await;
        assert_eq!((code, &status["reason"]), (422, &json!("Invalid")), "{}", status["message"]);
    });
    assert_eq!(cluster.kubectl(&["get", "configmaps", "-o", "name"]), "configmap/kube-root-ca.crt\n");
    cluster.finish();
}

#[test]
fn unknown_fields_are_errors_or_warnings_as_asked() {
    let cluster = Cluster::up();
    let manifest =
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: odd\n  colour: red\ndata:\n  a: b\nextra: 1\n";
    let output = cluster.run_with(super::Kubectl::Sid, manifest, &["create", "-f", "-", "--validate=strict"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("strict decoding error: unknown field \"extra\", unknown field \"metadata.colour\""),
        "{said}"
    );
    let output = cluster.run_with(super::Kubectl::Sid, manifest, &["create", "-f", "-", "--validate=warn"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("Warning: unknown field \"extra\"\n"), "{said}");
    assert_eq!(succeed(&output), "configmap/odd created\n");
    let output =
        cluster.run_with(super::Kubectl::Sid, manifest, &["replace", "-f", "-", "--validate=ignore"]);
    assert_eq!(succeed(&output), "configmap/odd replaced\n");
    assert!(cluster.get(&["configmap", "odd"]).get("extra").is_none());
    cluster.finish();
}

/// A thousand watchers that do not read, while much is written: what waits for them is not kept for each.
#[test]
fn watchers_that_do_not_read_cost_little() {
    const WATCHERS: usize = 1000;
    let cluster = Cluster::up();
    let before = pss(&cluster);
    cluster.node.wait(async {
        let kubeconfig = kube::config::Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
        let config =
            Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await;
        let client = Client::try_from(config.unwrap()).unwrap();
        let mut watches = Vec::new();
        for _ in 0..WATCHERS {
            let path = format!("{MAPS}?watch=true&resourceVersion=0");
            let answer = client.send(http::Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(answer.status().as_u16(), 200);
            watches.push(answer);
        }
        // 64 MB of changes: a queue for each watcher would hold 64 GB.
        let (code, status) = post(&client, MAPS, "application/json", map("0")).await;
        assert_eq!(code, 201, "{status}");
        for number in 0..128 {
            let request =
                http::Request::put(format!("{MAPS}/busy")).header("Content-Type", "application/json");
            let answer = client
                .send(request.body(Body::from(map(&number.to_string()).into_bytes())).unwrap())
                .await
                .unwrap();
            assert_eq!(answer.status().as_u16(), 200);
        }
        let after = pss(&cluster);
        let each = after.saturating_sub(before) / WATCHERS as u64;
        assert!(each < 256 * 1024, "{each} bytes for each watcher");
        // One that reads again gets everything, or is told that it is too late: never a gap.
        let mut late = watches.pop().unwrap().into_body();
        let first = late.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(!first.is_empty());
    });
    cluster.finish();
}

fn map(value: &str) -> String {
    let data = json!({ "number": value, "filler": "x".repeat(500_000) });
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "busy" }, "data": data })
        .to_string()
}

/// What the whole process takes of the machine's memory, in bytes.
fn pss(cluster: &Cluster) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", cluster.node.pids()[0])).unwrap();
    let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
