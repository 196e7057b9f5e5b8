//! Watches over HTTP.

use std::time::Duration;

use ::http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};
use vaquita_apiserver::DeleteOptions;
use vaquita_apiserver::kinds::CONFIG_MAP;

use super::home::{Home, read};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Reads lines of a stream.
struct Lines {
    response: Response<Incoming>,
    text: String,
}

impl Lines {
    async fn open(home: &Home, accept: &str, query: &str) -> Self {
        let response = home.send("GET", &format!("{MAPS}?{query}"), (accept, ""), "").await;
        assert_eq!(response.status(), 200);
        Self { response, text: String::new() }
    }

    /// The next event; None at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((line, rest)) = self.text.split_once('\n') {
                let event = serde_json::from_str(line).unwrap();
                self.text = rest.to_owned();
                return Some(event);
            }
            let frame = tokio::time::timeout(Duration::from_secs(20), self.response.body_mut().frame());
            let frame = frame.await.expect("an event")?.unwrap();
            self.text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    }
}

async fn make(home: &Home, name: &str) {
    let object = json!({"metadata": {"name": name}});
    home.cluster.create(&CONFIG_MAP, "default", object, &home.write()).await.unwrap();
}

#[tokio::test]
async fn a_watch_list_tells_where_the_beginning_ends() {
    let home = Home::start(false).await;
    make(&home, "a").await;
    let query =
        "watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let mut lines = Lines::open(&home, "", query).await;
    let first = lines.next().await.unwrap();
    assert_eq!((&first["type"], &first["object"]["metadata"]["name"]), (&json!("ADDED"), &json!("a")));
    assert_eq!(first["object"]["kind"], "ConfigMap");
    let second = lines.next().await.unwrap();
    assert_eq!(second["type"], "BOOKMARK");
    assert_eq!(second["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let revision: u64 = second["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert_eq!(revision, home.cluster.store().revision());
    make(&home, "b").await;
    home.cluster.delete(&CONFIG_MAP, "default", "b", &DeleteOptions::default(), &home.write()).await.unwrap();
    assert_eq!(lines.next().await.unwrap()["type"], "ADDED");
    let gone = lines.next().await.unwrap();
    assert_eq!(gone["type"], "DELETED");
    assert!(
        gone["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > revision
    );
}

#[tokio::test]
async fn a_watch_of_tables_has_its_headings_once() {
    let home = Home::start(false).await;
    make(&home, "a").await;
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let mut lines =
        Lines::open(&home, table, "watch=true&fieldSelector=metadata.name%3Da&resourceVersion=0").await;
    let first = lines.next().await.unwrap();
    assert_eq!(first["object"]["columnDefinitions"].as_array().unwrap().len(), 3);
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    let label = json!({"metadata": {"labels": {"x": "y"}}});
    home.json("PATCH", &format!("{MAPS}/a"), &label).await;
    let second = lines.next().await.unwrap();
    assert_eq!((&second["type"], &second["object"]["columnDefinitions"]), (&json!("MODIFIED"), &Value::Null));
}

#[tokio::test]
async fn a_watch_ends_when_its_time_is_over() {
    let home = Home::start(false).await;
    let mut lines = Lines::open(&home, "", "watch=true&timeoutSeconds=1&resourceVersion=1").await;
    while let Some(event) = lines.next().await {
        assert_ne!(event["type"], "ERROR", "{event}");
    }
}

#[tokio::test]
async fn what_a_watch_cannot_do_is_told() {
    let home = Home::start(false).await;
    let told = |query: &'static str| {
        let home = &home;
        async move {
            let (code, status) = home.json("GET", &format!("{MAPS}?watch=true&{query}"), &Value::Null).await;
            format!("{code} {}", status["message"].as_str().unwrap_or_default())
        }
    };
    assert!(told("sendInitialEvents=true").await.starts_with("422 ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires"));
    assert!(
        told("resourceVersion=99999")
            .await
            .starts_with("504 Timeout: Too large resource version: 99999, current: ")
    );
    assert!(told("labelSelector=a,,b").await.starts_with("400 found ',', expected: identifier after ','"));
}

#[tokio::test]
async fn a_history_that_is_gone_is_an_error_in_the_stream() {
    let home = Home::start(false).await;
    make(&home, "a").await;
    // More changes than history keeps.
    let writers = (0..50_u32).map(|writer| {
        let cluster = home.cluster.clone();
        let write = home.write();
        tokio::spawn(async move {
            for change in 0..210_u32 {
                let name = format!("w{writer}");
                let object = json!({"metadata": {"name": name}, "data": {"a": change.to_string()}});
                if change == 0 {
                    cluster.create(&CONFIG_MAP, "default", object, &write).await.unwrap();
                } else {
                    cluster.update(&CONFIG_MAP, "default", &name, None, object, &write).await.unwrap();
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let answer = home.send("GET", &format!("{MAPS}?watch=true&resourceVersion=1"), ("", ""), "").await;
    let (code, event) = read(answer).await;
    assert_eq!(code, 200);
    assert_eq!(event["type"], "ERROR");
    assert_eq!((&event["object"]["code"], &event["object"]["reason"]), (&json!(410), &json!("Expired")));
}
