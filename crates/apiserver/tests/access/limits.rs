//! Clients that are many, slow or silent.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::home::{Home, Machine};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_finishes_the_handshake_keeps_nobody_out() {
    let home = Home::start(Machine::default()).await;
    let mut silent = Vec::new();
    for index in 0..300 {
        let mut socket = TcpStream::connect(&home.address).await.unwrap();
        if index % 2 == 0 {
            // The beginning of a ClientHello.
            socket.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await.unwrap();
        }
        silent.push(socket);
    }
    let admin = home.admin();
    let asked = tokio::time::timeout(Duration::from_secs(30), home.ask(Some(&admin), "GET /version", "", ""));
    assert_eq!(asked.await.expect("an answer").0, 200);
    // They are told to go.
    let mut byte = [0; 64];
    for socket in &mut silent {
        let read = tokio::time::timeout(Duration::from_secs(60), socket.read(&mut byte)).await;
        let _ = read.expect("the connection is closed in time");
    }
    home.end().await;
}

#[tokio::test]
async fn what_is_no_tls_and_what_is_no_http_ends() {
    let home = Home::start(Machine::default()).await;
    let mut plain = TcpStream::connect(&home.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _ =
        tokio::time::timeout(Duration::from_secs(30), plain.read_to_end(&mut rest)).await.expect("an end");
    let mut stream = home.connect(None).await;
    stream.write_all(b"\0\0\0 what is this\r\n\r\n").await.unwrap();
    let _ =
        tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut rest)).await.expect("an end");
    // A head that never ends.
    let mut stream = home.connect(None).await;
    let mut written = 0;
    while written < 1 << 20 && stream.write_all(&[b'a'; 4096]).await.is_ok() {
        written += 4096;
    }
    let _ =
        tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut rest)).await.expect("an end");
    assert_eq!(home.ask(Some(&home.admin()), "GET /version", "", "").await.0, 200);
    home.end().await;
}

#[tokio::test]
async fn the_end_does_not_wait_for_watches() {
    let home = Home::start(Machine::default()).await;
    let mut stream = home.connect(Some(&home.admin())).await;
    stream.write_all(b"GET /api/v1/namespaces?watch=true HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    home.end().await;
}
