//! Logs, commands, ports, and what pods use.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::home::{Home, Machine};

const POD: &str = "/api/v1/namespaces/default/pods/p";

/// A streaming server for one connection: what it was asked, and everything that came, with which it answers.
async fn echo() -> (String, tokio::task::JoinHandle<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let served = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.unwrap());
        }
        let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\n\
            x-stream-protocol-version: v4.channel.k8s.io\r\n\r\nfirst";
        socket.write_all(answer.as_bytes()).await.unwrap();
        // Everything until the client ends its half, and only then the answer.
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).await.unwrap();
        socket.write_all(&bytes).await.unwrap();
        (String::from_utf8(head).unwrap(), bytes)
    });
    (address, served)
}

async fn started(machine: Machine) -> Home {
    let home = Home::start(machine).await;
    home.create("serviceaccounts", serde_json::json!({ "metadata": { "name": "default" } })).await;
    home.pod("p", Some("n")).await;
    home
}

fn upgrade(method: &str, what: &str) -> String {
    format!(
        "{method} {POD}/{what} HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\n\
         x-stream-protocol-version: v4.channel.k8s.io\r\nx-stream-protocol-version: v3.channel.k8s.io\r\n\
         authorization: Bearer secret\r\ncontent-length: 0\r\n\r\n"
    )
}

#[tokio::test]
async fn a_connection_is_joined_byte_for_byte_and_half_by_half() {
    let (address, served) = echo().await;
    let home = started(Machine { streams: Some(address) }).await;
    let mut stream = home.connect(Some(&home.admin())).await;
    stream.write_all(upgrade("POST", "exec?command=sh&stdin=true&stdout=true").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.contains("x-stream-protocol-version: v4.channel.k8s.io"), "{head}");
    let mut first = [0; 5];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"first");
    let bytes: Vec<u8> = (0..1 << 20_u32).map(|index| (index % 251) as u8).collect();
    let (mut read, mut write) = tokio::io::split(stream);
    let (own, sent) = (bytes.clone(), bytes.len());
    let writing = tokio::spawn(async move {
        write.write_all(&own).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(60), read.read_to_end(&mut back)).await;
    let _ = ended.expect("both halves end");
    writing.await.unwrap();
    assert_eq!(back.len(), sent);
    assert!(back == bytes);
    let (asked, _) = served.await.unwrap();
    assert!(asked.starts_with("POST /exec/token HTTP/1.1"), "{asked}");
    assert_eq!(asked.matches("x-stream-protocol-version").count(), 2, "{asked}");
    // Who it is concerns nobody behind us.
    assert!(!asked.contains("secret"), "{asked}");
    home.end().await;
}

#[tokio::test]
async fn what_cannot_be_joined_is_refused_in_words() {
    let home = started(Machine::default()).await;
    home.pod("unbound", None).await;
    let admin = home.admin();
    let ask = async |line: &str, headers: &str| home.ask(Some(&admin), line, headers, "").await;
    let headers = "upgrade: SPDY/3.1\r\n";
    let (code, said) = ask(&format!("POST {POD}/exec?command=sh&stdout=true"), headers).await;
    assert_eq!(code, 400, "{said}");
    assert!(said.contains("Upgrade request required"), "{said}");
    let asks = async |path: &str| {
        let mut stream = home.connect(Some(&admin)).await;
        let text = upgrade("POST", "exec").replace(&format!("{POD}/exec"), path);
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    let cases = [
        (
            format!("{POD}/exec?command=sh&stdout=true&container=x"),
            "400",
            "container x is not valid for pod p",
        ),
        (format!("{POD}/exec?command=sh"), "400", "you must specify at least 1 of stdin, stdout, stderr"),
        (
            POD.replace("pods/p", "pods/unbound") + "/attach?stdout=true",
            "400",
            "pod unbound does not have a host assigned",
        ),
        (POD.replace("pods/p", "pods/nobody") + "/portforward", "404", "not found"),
        // kubectl says itself that it could not upgrade the connection.
        (
            format!("{POD}/exec?command=sh&stdout=true"),
            "500",
            "\r\n\r\nInternal error occurred: container not found",
        ),
    ];
    for (path, code, why) in cases {
        let said = asks(&path).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {code}")), "{path}: {said}");
        assert!(said.contains(why), "{path}: {said}");
    }
    home.end().await;
}

#[tokio::test]
async fn logs_are_plain_text() {
    let home = started(Machine::default()).await;
    home.pod("unbound", None).await;
    let admin = home.admin();
    let (code, text) = home.ask(Some(&admin), &format!("GET {POD}/log?tailLines=3"), "", "").await;
    assert_eq!(code, 200);
    assert!(text.contains("a Some(3) false\n"), "{text}");
    let (code, text) = home.ask(Some(&admin), &format!("GET {POD}/log?tailLines=-1"), "", "").await;
    assert_eq!(code, 422);
    assert!(text.contains("PodLogOptions \\\"p\\\" is invalid: tailLines"), "{text}");
    let path = "GET /api/v1/namespaces/default/pods/unbound/log";
    assert_eq!(home.ask(Some(&admin), path, "", "").await, (204, String::new()));
    let jane = home.pki.identity("jane", None).unwrap();
    let (code, text) = home.ask(Some(&jane), &format!("GET {POD}/log"), "", "").await;
    assert_eq!(code, 403);
    assert!(text.contains("cannot get resource \\\"pods/log\\\""), "{text}");
    home.end().await;
}

#[tokio::test]
async fn usage_is_told_of_pods_that_are_there() {
    let home = started(Machine::default()).await;
    let admin = home.admin();
    let get = async |path: &str| -> (u16, serde_json::Value) {
        let path = format!("GET /apis/metrics.k8s.io/v1beta1/{path}");
        let (code, text) = home.ask(Some(&admin), &path, "", "").await;
        (code, serde_json::from_str(&text).unwrap())
    };
    let (_, list) = get("pods").await;
    assert_eq!(list["kind"], "PodMetricsList");
    let usage = serde_json::json!({ "cpu": "5000000n", "memory": "3072Ki" });
    assert_eq!(list["items"][0]["containers"][0]["usage"], usage, "{list}");
    assert_eq!(list["items"][0]["window"], "10s");
    let (_, one) = get("namespaces/default/pods/p").await;
    assert_eq!((&one["kind"], &one["metadata"]["labels"]["app"]), (&"PodMetrics".into(), &"p".into()));
    assert_eq!(
        get("namespaces/default/pods?labelSelector=app%3Dother").await.1["items"],
        serde_json::json!([])
    );
    assert_eq!(get("namespaces/other/pods").await.1["items"], serde_json::json!([]));
    let (code, missing) = get("namespaces/default/pods/x").await;
    assert_eq!((code, missing["message"].as_str().unwrap()), (404, "pods.metrics.k8s.io \"x\" not found"));
    // Without a Node object there is nothing to tell of it.
    assert_eq!(get("nodes").await.1["items"], serde_json::json!([]));
    home.end().await;
}
