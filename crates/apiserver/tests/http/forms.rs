//! The forms in which answers come.

use serde_json::{Value, json};

use super::home::{Home, read};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";

async fn with_maps(count: usize) -> Home {
    let home = Home::start(false).await;
    for index in 0..count {
        let object = json!({"metadata": {"name": format!("m{index}"), "labels": {"n": index.to_string()}}, "data": {"a": "b"}});
        assert_eq!(home.json("POST", MAPS, &object).await.0, 201);
    }
    home
}

async fn accept(home: &Home, accept: &str, path: &str) -> (u16, Value) {
    read(home.send("GET", path, (accept, ""), "").await).await
}

#[tokio::test]
async fn items_of_lists_have_no_kind_of_their_own() {
    let home = with_maps(2).await;
    let list = home.get(&format!("{MAPS}?limit=1")).await;
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
    assert_eq!(list["metadata"]["remainingItemCount"], 1);
    assert_eq!(list["items"][0].get("kind"), None);
    let rest = home
        .get(&format!("{MAPS}?limit=1&continue={}", list["metadata"]["continue"].as_str().unwrap()))
        .await;
    assert_eq!(rest["items"][0]["metadata"]["name"], "m1");
    assert_eq!(rest["metadata"].get("continue"), None);
}

#[tokio::test]
async fn tables_have_headings_cells_and_metadata() {
    let home = with_maps(2).await;
    let (_, table) = accept(&home, TABLE, MAPS).await;
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    let names: Vec<&Value> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|column| &column["name"]).collect();
    assert_eq!(names, ["Name", "Data", "Age"]);
    let row = &table["rows"][0];
    assert_eq!(row["cells"].as_array().unwrap()[..2], [json!("m0"), json!(1)]);
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(row["object"]["metadata"]["labels"]["n"], "0");
    let (_, table) = accept(&home, TABLE, &format!("{MAPS}/m1?includeObject=Object")).await;
    assert_eq!(table["rows"][0]["object"]["data"]["a"], "b");
    let (_, table) = accept(&home, TABLE, &format!("{MAPS}?includeObject=None")).await;
    assert_eq!(table["rows"][1]["object"], Value::Null);
}

#[tokio::test]
async fn metadata_alone_can_be_had() {
    let home = with_maps(1).await;
    let form = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
    let (_, list) = accept(&home, form, MAPS).await;
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&json!("PartialObjectMetadataList"), &json!("meta.k8s.io/v1"))
    );
    assert_eq!(list["items"][0].get("data"), None);
    assert_eq!(list["items"][0]["metadata"]["name"], "m0");
}

#[tokio::test]
async fn discovery_comes_in_both_forms() {
    let home = Home::start(false).await;
    let form = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let answer = home.send("GET", "/api", (form, ""), "").await;
    assert_eq!(
        answer.headers()["content-type"],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
    assert_eq!(tag.len(), 66);
    let (_, all) = read(answer).await;
    let version = &all["items"][0]["versions"][0];
    let pods = version["resources"].as_array().unwrap().iter().find(|one| one["resource"] == "pods").unwrap();
    assert_eq!((&pods["scope"], &pods["shortNames"]), (&json!("Namespaced"), &json!(["po"])));
    let exec =
        pods["subresources"].as_array().unwrap().iter().find(|one| one["subresource"] == "exec").unwrap();
    assert_eq!(exec["responseKind"]["kind"], "PodExecOptions");

    assert_eq!(home.get("/api").await["versions"], json!(["v1"]));
    let groups = home.get("/apis").await;
    let groups: Vec<&Value> =
        groups["groups"].as_array().unwrap().iter().map(|group| &group["name"]).collect();
    assert_eq!(groups[0], "events.k8s.io");
    assert!(
        groups.contains(&&json!("coordination.k8s.io")) && groups.contains(&&json!("authorization.k8s.io")),
        "{groups:?}"
    );
    assert_eq!(
        home.get("/apis/coordination.k8s.io").await["preferredVersion"]["groupVersion"],
        "coordination.k8s.io/v1"
    );
    let core = home.get("/api/v1").await;
    let names: Vec<&str> =
        core["resources"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
    assert!(
        names.contains(&"pods") && names.contains(&"pods/eviction") && !names.contains(&"endpoints"),
        "{names:?}"
    );
}

#[tokio::test]
async fn what_did_not_change_is_not_sent_again() {
    let home = Home::start(false).await;
    let answer = home.send("GET", "/apis", ("application/json", ""), "").await;
    let tag = answer.headers()["etag"].clone();
    let request = ::http::Request::builder()
        .uri(format!("http://{}/apis", home.address))
        .header("if-none-match", tag)
        .body(String::new())
        .unwrap();
    let client =
        hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    assert_eq!(client.request(request).await.unwrap().status(), 304);
}

#[tokio::test]
async fn the_rest_of_the_kinds_is_served_when_asked() {
    let home = Home::start(true).await;
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let (code, made) = home.json("POST", "/apis/apps/v1/namespaces/default/deployments", &deployment).await;
    assert_eq!((code, &made["spec"]["replicas"]), (201, &json!(1)), "{made}");
    let path = "/apis/apps/v1/namespaces/default/deployments/d/scale";
    let (code, scale) = home.json("PATCH", path, &json!({"spec": {"replicas": 3}})).await;
    assert_eq!(
        (code, &scale["spec"]["replicas"], &scale["status"]["selector"]),
        (200, &json!(3), &json!("a=b"))
    );
    assert_eq!(home.get("/apis/apps/v1/namespaces/default/deployments/d").await["metadata"]["generation"], 2);
    let path = "/apis/apps/v1/namespaces/default/controllerrevisions";
    let raw = r#"{"metadata":{"name":"r"},"revision":1,"data":{"b" : "\u0026&<","a":1.0}}"#;
    let answer = home.send("POST", path, ("", "application/json"), raw).await;
    let bytes = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    // As Go compacts it; the number stays as it came.
    assert!(text.contains(r#""data":{"b":"\u0026\u0026\u003c","a":1.0}"#), "{text}");
}

#[tokio::test]
async fn reviews_are_answered_in_plain_json_alone() {
    let home = Home::start(false).await;
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let (code, answer) = home.json("POST", path, &review).await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(true)));
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let answer = home.send("POST", path, (table, "application/json"), review.to_string()).await;
    assert_eq!(answer.status(), 406);
}
