//! What clients cannot take from the server: memory and time.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use vaquita_apiserver::kinds::CONFIG_MAP;

use super::home::{Home, read};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Resident memory of this process, in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn fill(home: &Home, count: usize, text: &str) {
    let mut tasks = Vec::new();
    for start in 0..100 {
        let (cluster, write, text) = (home.cluster.clone(), home.write(), text.to_owned());
        tasks.push(tokio::spawn(async move {
            for index in (start..count).step_by(100) {
                let object = json!({"metadata": {"name": format!("m{index:05}")}, "data": {"a": text}});
                cluster.create(&CONFIG_MAP, "default", object, &write).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_body_has_at_most_three_mebibytes() {
    let home = Home::start(false).await;
    let mut body = br#"{"metadata":{"name":"a"},"data":{"a":""#.to_vec();
    body.resize((3 << 20) + 1, b'a');
    let (code, status) = read(home.send("POST", MAPS, ("", "application/json"), body.clone()).await).await;
    assert_eq!(
        (code, status["message"].as_str().unwrap()),
        (413, "Request entity too large: limit is 3145728")
    );
    // The same without a length in front.
    let mut socket = TcpStream::connect(&home.address).await.unwrap();
    let head =
        format!("POST {MAPS} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n", body.len());
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&body).await.unwrap();
    socket.write_all(b"\r\n0\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_do_not_read_cost_little() {
    let home = Home::start(false).await;
    fill(&home, 2_000, &"x".repeat(1000)).await;
    let before = resident();
    let mut sockets = Vec::new();
    for _ in 0..1_000 {
        let mut socket = TcpStream::connect(&home.address).await.unwrap();
        let head = format!("GET {MAPS}?watch=true&resourceVersion=0 HTTP/1.1\r\nhost: x\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 15];
        socket.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        sockets.push(socket);
    }
    // Each would have read more than two mebibytes.
    let taken = resident().saturating_sub(before);
    assert!(taken < 200 << 10, "{taken} KiB for 1,000 watches");
    // And the others are served.
    let list = home.get(&format!("{MAPS}?limit=1")).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    drop(sockets);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_objects_are_listed_in_pieces() {
    let home = Home::start(false).await;
    fill(&home, 10_000, &"x".repeat(500)).await;
    let answer = home.send("GET", MAPS, ("", ""), "").await;
    let (code, list) = read(answer).await;
    assert_eq!((code, list["items"].as_array().unwrap().len()), (200, 10_000));

    let request = ::http::Request::builder()
        .uri(format!("http://{}{MAPS}", home.address))
        .header("accept-encoding", "gzip")
        .body(String::new())
        .unwrap();
    let client =
        hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    let answer = client.request(request).await.unwrap();
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let bytes = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut text).unwrap();
    let same: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(same, list);
}

#[tokio::test]
async fn half_a_request_holds_up_nobody() {
    let home = Home::start(false).await;
    let mut sockets = Vec::new();
    for _ in 0..50 {
        let mut socket = TcpStream::connect(&home.address).await.unwrap();
        let head = format!("POST {MAPS} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{{");
        socket.write_all(head.as_bytes()).await.unwrap();
        sockets.push(socket);
    }
    let object = json!({"metadata": {"name": "a"}});
    let made = home.json("POST", MAPS, &object);
    let (code, _) = tokio::time::timeout(Duration::from_secs(20), made).await.expect("an answer");
    assert_eq!(code, 201);
}
