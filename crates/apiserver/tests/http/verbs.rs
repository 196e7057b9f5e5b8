//! Objects over HTTP.

use serde_json::{Value, json};

use super::home::{Home, read};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "<&>"}})
}

#[tokio::test]
async fn an_object_lives_over_http() {
    let home = Home::start(false).await;
    let (code, made) = home.json("POST", MAPS, &map("a")).await;
    assert_eq!((code, &made["kind"]), (201, &json!("ConfigMap")));
    let one = format!("{MAPS}/a");
    assert_eq!(home.get(&one).await, made);
    let (code, patched) = home.json("PATCH", &one, &json!({"data": {"b": "c"}})).await;
    assert_eq!((code, &patched["data"]), (200, &json!({"a": "<&>", "b": "c"})));
    let (code, stale) = home.json("PUT", &one, &made).await;
    assert_eq!((code, &stale["reason"]), (409, &json!("Conflict")));
    let (code, other) = home.json("PUT", &one, &map("b")).await;
    assert_eq!(
        (code, other["message"].as_str().unwrap()),
        (400, "the name of the object (b) does not match the name on the URL (a)")
    );
    let (code, gone) = home.json("DELETE", &one, &json!({"propagationPolicy": "Background"})).await;
    assert_eq!((code, &gone["status"]), (200, &json!("Success")));
    assert_eq!(gone["details"], json!({"name": "a", "kind": "configmaps", "uid": made["metadata"]["uid"]}));
    let (code, none) = home.json("GET", &one, &Value::Null).await;
    assert_eq!(code, 404);
    assert_eq!(
        none.to_string(),
        r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"configmaps \"a\" not found","reason":"NotFound","details":{"name":"a","kind":"configmaps"},"code":404}"#
    );
}

#[tokio::test]
async fn text_is_written_as_go_writes_it() {
    let home = Home::start(false).await;
    let response = home.send("POST", MAPS, ("", "application/json"), map("a").to_string()).await;
    assert_eq!(response.status(), 201);
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&bytes).contains(r#"{"a":"\u003c\u0026\u003e"}"#), "{bytes:?}");
}

#[tokio::test]
async fn unknown_fields_are_treated_as_asked() {
    let home = Home::start(false).await;
    let mut object = map("a");
    object["spec"] = json!({});
    let (code, status) = home.json("POST", &format!("{MAPS}?fieldValidation=Strict"), &object).await;
    assert_eq!(code, 400);
    assert_eq!(
        status["message"],
        r#"ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "spec""#
    );
    let answer = home.send("POST", MAPS, ("", "application/json"), object.to_string()).await;
    assert_eq!(answer.headers()["warning"], r#"299 - "unknown field \"spec\"""#);
    let (code, made) = read(answer).await;
    assert_eq!((code, made.get("spec")), (201, None));
    object["metadata"]["name"] = "b".into();
    let path = format!("{MAPS}?fieldValidation=Ignore&dryRun=All");
    let answer = home.send("POST", &path, ("", "application/json"), object.to_string()).await;
    assert_eq!((answer.status().as_u16(), answer.headers().get("warning")), (201, None));
    assert_eq!(home.json("GET", &format!("{MAPS}/b"), &Value::Null).await.0, 404);
}

#[tokio::test]
async fn bodies_come_as_yaml_and_protobuf_too() {
    let home = Home::start(false).await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: yaml}\ndata: {a: b}\n";
    let (code, made) = read(home.send("POST", MAPS, ("", "application/yaml"), yaml).await).await;
    assert_eq!((code, &made["data"]["a"]), (201, &json!("b")), "{made}");
    // runtime.Unknown { typeMeta { v1, Namespace }, raw: Namespace { metadata { name: p } } }
    let raw = b"\x0a\x03\x0a\x01p";
    let mut body = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09Namespace\x12".to_vec();
    body.push(raw.len() as u8);
    body.extend_from_slice(raw);
    let form = "application/vnd.kubernetes.protobuf";
    let (code, made) = read(
        home.send("POST", "/api/v1/namespaces", (&format!("{form},application/json"), form), body).await,
    )
    .await;
    assert_eq!((code, &made["metadata"]["name"]), (201, &json!("p")), "{made}");
    assert_eq!(made["status"]["phase"], "Active");
    for bad in [&b"k8s\0\xff\xff"[..], b"nothing", b""] {
        let answer = home.send("POST", "/api/v1/namespaces", ("", form), bad.to_vec()).await;
        assert_eq!(answer.status(), 400, "{bad:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_done_is_told_as_by_kubernetes() {
    let home = Home::start(false).await;
    home.json("POST", MAPS, &map("a")).await;
    let one = format!("{MAPS}/a");
    let told = |method: &'static str, path: String, body: &'static str| {
        let home = &home;
        async move {
            let (code, status) = read(home.send(method, &path, ("", "application/json"), body).await).await;
            let text = status["message"].as_str().or(status.as_str()).unwrap_or_default().to_owned();
            format!("{code} {text}")
        }
    };
    for (method, path, body, expected) in [
        (
            "POST",
            MAPS.to_owned(),
            "xyz",
            "400 the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: invalid character 'x' looking for beginning of value (78797a)",
        ),
        (
            "POST",
            MAPS.to_owned(),
            r#"{"apiVersion":"v1","kind":"Pod"}"#,
            r#"400 Pod in version "v1" cannot be handled as a ConfigMap: converting (v1.Pod) to (core.ConfigMap): unknown conversion"#,
        ),
        (
            "POST",
            MAPS.to_owned(),
            r#"{"metadata":{"name":"a","resourceVersion":"3"}}"#,
            "500 resourceVersion should not be set on objects to be created",
        ),
        ("PATCH", one.clone(), "{}", "415 415: Unsupported Media Type"),
        ("PUT", MAPS.to_owned(), "{}", "405 the server does not allow this method on the requested resource"),
        (
            "GET",
            format!("{MAPS}?fieldSelector=a=b"),
            "",
            r#"400 "a" is not a known field selector: only "metadata.name", "metadata.namespace""#,
        ),
        (
            "GET",
            format!("{MAPS}?resourceVersion=x"),
            "",
            r#"400 invalid resource version: resourceVersion: Invalid value: "x": strconv.ParseUint: parsing "x": invalid syntax"#,
        ),
        ("GET", "/api/v1/nothing".to_owned(), "", "404 the server could not find the requested resource"),
        ("GET", "/apis/nothing/v1".to_owned(), "", "404 404 page not found\n"),
        (
            "GET",
            "/api/v1/configmaps/a".to_owned(),
            "",
            "404 the server could not find the requested resource",
        ),
        (
            "POST",
            "/api/v1/configmaps".to_owned(),
            "{}",
            "405 the server does not allow this method on the requested resource",
        ),
        (
            "POST",
            "/api/v1/namespaces/default/services".to_owned(),
            "{}",
            "405 the server does not allow this method on the requested resource",
        ),
        ("GET", format!("{one}/status"), "", "404 the server could not find the requested resource"),
    ] {
        assert_eq!(told(method, path.clone(), body).await, expected, "{method} {path}");
    }
    let apply = home.send("PATCH", &one, ("", "application/apply-patch+yaml"), "{}").await;
    assert_eq!(apply.status(), 415);
    let accept = home.send("GET", MAPS, ("application/vnd.kubernetes.protobuf", ""), "").await;
    assert_eq!(accept.status(), 406);
}

#[tokio::test]
async fn subresources_write_their_part_alone() {
    let home = Home::start(false).await;
    let node = json!({"metadata": {"name": "n"}, "spec": {"podCIDR": "10.0.0.0/24"}});
    assert_eq!(home.json("POST", "/api/v1/nodes", &node).await.0, 201);
    let status = json!({"spec": {"unschedulable": true}, "status": {"phase": "Running"}});
    let (code, patched) = home.json("PATCH", "/api/v1/nodes/n/status", &status).await;
    assert_eq!(
        (code, &patched["status"]["phase"], patched["spec"].get("unschedulable")),
        (200, &json!("Running"), None)
    );
    let (_, patched) = home.json("PATCH", "/api/v1/nodes/n", &json!({"status": {"phase": "Pending"}})).await;
    assert_eq!(patched["status"]["phase"], "Running");

    let account = json!({"metadata": {"name": "default"}});
    home.json("POST", "/api/v1/namespaces/default/serviceaccounts", &account).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let (code, made) = home.json("POST", "/api/v1/namespaces/default/pods", &pod).await;
    assert_eq!(code, 201, "{made}");
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let path = "/api/v1/namespaces/default/pods/p/binding";
    assert_eq!(home.json("POST", path, &binding).await.0, 201);
    let (code, again) = home.json("POST", path, &binding).await;
    assert_eq!(code, 409, "{again}");
    let bound = home.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn").await;
    assert_eq!(bound["items"][0]["metadata"]["name"], "p");

    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let (code, _) = home.json("POST", "/api/v1/namespaces/default/pods/p/eviction", &eviction).await;
    assert_eq!(code, 201);
    let pod = home.get("/api/v1/namespaces/default/pods/p").await;
    assert_eq!(pod["metadata"]["deletionGracePeriodSeconds"], 30);
    let (code, gone) =
        home.json("DELETE", "/api/v1/namespaces/default/pods/p?gracePeriodSeconds=0", &Value::Null).await;
    assert_eq!((code, &gone["kind"]), (200, &json!("Pod")));
    assert_eq!(home.json("GET", "/api/v1/namespaces/default/pods/p", &Value::Null).await.0, 404);
}

#[tokio::test]
async fn options_of_deletions_come_as_protobuf_too() {
    let home = Home::start(false).await;
    home.json("POST", MAPS, &map("a")).await;
    // runtime.Unknown { typeMeta { v1, DeleteOptions }, raw: DeleteOptions { preconditions { uid: x } } }
    let raw = b"\x12\x03\x0a\x01x";
    let mut body = b"k8s\0\x0a\x13\x0a\x02v1\x12\x0dDeleteOptions\x12".to_vec();
    body.push(raw.len() as u8);
    body.extend_from_slice(raw);
    let form = "application/vnd.kubernetes.protobuf";
    let (code, status) = read(home.send("DELETE", &format!("{MAPS}/a"), ("", form), body).await).await;
    assert_eq!(code, 409, "{status}");
    assert!(
        status["message"].as_str().unwrap().contains("the UID in the precondition (x) does not match"),
        "{status}"
    );
}

#[tokio::test]
async fn events_are_the_same_in_both_groups() {
    let home = Home::start(false).await;
    let event = json!({
        "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
        "reason": "Started", "message": "Container started", "type": "Normal", "count": 2,
        "firstTimestamp": "2026-11-21T20:00:00Z", "lastTimestamp": "2026-11-21T20:00:00Z",
        "source": {"component": "kubelet"},
    });
    let (code, made) = home.json("POST", "/api/v1/namespaces/default/events", &event).await;
    assert_eq!(code, 201, "{made}");
    let other = home.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await;
    assert_eq!(
        (&other["apiVersion"], &other["note"]),
        (&json!("events.k8s.io/v1"), &json!("Container started"))
    );
    assert_eq!((&other["regarding"]["name"], &other["deprecatedCount"]), (&json!("p"), &json!(2)));
    assert_eq!(other["metadata"], made["metadata"]);
    let list = home.get("/apis/events.k8s.io/v1/events?fieldSelector=regarding.name%3Dp").await;
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("EventList"), 1));
    let list = home.get("/api/v1/events?fieldSelector=involvedObject.name%3Dp,source%3Dkubelet").await;
    assert_eq!(list["items"][0]["involvedObject"]["name"], "p");
    let (code, changed) = home
        .json(
            "PATCH",
            "/apis/events.k8s.io/v1/namespaces/default/events/e",
            &json!({"metadata": {"labels": {"a": "b"}}}),
        )
        .await;
    assert_eq!(code, 200, "{changed}");
    assert_eq!(home.get("/api/v1/namespaces/default/events/e").await["metadata"]["labels"]["a"], "b");
}
