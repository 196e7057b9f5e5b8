//! What is refused, and what is bounded.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use vaquita_streaming::{Attach, Config, Exec, Kind, Request, Server, Wanted};

use crate::forward;
use crate::spdy::Frame;
use crate::support::{ALL, Running};

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n";
const V4: &str = "X-Stream-Protocol-Version: v4.channel.k8s.io\r\n";

#[tokio::test]
async fn a_url_works_once() {
    let running = Running::new();
    let path = running.exec(&["exit", "0"], ALL);
    let (answer, _socket) = running.request("GET", &path, &[UPGRADE, V4]).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let elsewhere = running.exec(&["exit", "0"], ALL).replace("/exec/", "/attach/");
    for path in [path.as_str(), "/exec/AAAAAAAA", "/exec/", "/exec", "/", "/exec/a/b", &elsewhere] {
        let (answer, _) = running.request("POST", path, &[UPGRADE, V4]).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
}

#[tokio::test]
async fn requests_that_are_no_upgrades_of_ours_are_refused() {
    let running = Running::new();
    for (headers, status) in [
        (&[][..], 400),
        (&["Connection: Upgrade\r\nUpgrade: h2c\r\n"], 400),
        (&[UPGRADE], 400),
        (&[UPGRADE, "X-Stream-Protocol-Version: v9.channel.k8s.io\r\n"], 403),
    ] {
        let (answer, _) = running.request("POST", &running.exec(&["sleep"], ALL), headers).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let names = answer.matches("x-accepted-stream-protocol-versions: ").count();
        assert_eq!(names, if status == 403 { 4 } else { 0 }, "{answer}");
    }
    let (answer, _) = running.request("PUT", &running.exec(&["sleep"], ALL), &[UPGRADE, V4]).await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
}

#[tokio::test]
async fn streams_that_cannot_be_had_together_get_no_url() {
    let running = Running::new();
    let tty = Wanted { tty: true, ..ALL };
    let none = Wanted { tty: true, ..Wanted::default() };
    for streams in [tty, none, Wanted::default()] {
        let exec = Request::Exec(Exec { container: "c".into(), command: vec!["x".into()], streams });
        let attach = Request::Attach(Attach { container: "c".into(), streams });
        for request in [exec, attach] {
            assert_eq!(running.server.url_for(request).unwrap_err().kind(), Kind::Invalid);
        }
    }
}

#[tokio::test]
async fn so_many_urls_wait_and_no_more() {
    let running = Running::new();
    let paths: Vec<_> = (0..1000).map(|_| running.exec(&["exit", "0"], ALL)).collect();
    let request = Request::Exec(Exec { container: "c".into(), command: vec!["x".into()], streams: ALL });
    assert_eq!(running.server.url_for(request).unwrap_err().kind(), Kind::Exhausted);
    running.spdy(&paths[500], &["v4.channel.k8s.io"]).await;
    running.exec(&["exit", "0"], ALL);
}

#[tokio::test]
async fn only_loopback_is_listened_on_without_tls() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let config = Config { address: address.parse().unwrap(), ..Config::default() };
        assert_eq!(Server::bind(&config).unwrap_err().kind(), Kind::Invalid, "{address}");
    }
    assert!(Running::new().server.address().ip().is_loopback());
}

/// Whoever says nothing makes room for those who do.
#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let running = Running::new();
    let mut silent = Vec::new();
    for _ in 0..600 {
        silent.push(TcpStream::connect(running.server.address()).await.unwrap());
    }
    let mut spdy = running.spdy(&running.exec(&["exit", "0"], ALL), &["v4.channel.k8s.io"]).await;
    spdy.open(&[("streamtype", "error")]).await;
    assert_eq!(spdy.frame().await, Some(Frame::Reply(1)));
    // The first to come were the first to go.
    assert_eq!(silent[0].read(&mut [0; 1]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn an_endless_head_is_not_read() {
    let running = Running::new();
    let mut socket = TcpStream::connect(running.server.address()).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nX: ").await.unwrap();
    while socket.write_all(&[b'x'; 4096]).await.is_ok() {}
}

/// The process is stopped by the client that does not read, and nothing gathers in between.
#[tokio::test]
async fn a_client_that_does_not_read_stops_the_process() {
    let running = Running::new();
    let mut spdy = running.spdy(&running.exec(&["yes"], ALL), &["v4.channel.k8s.io"]).await;
    for kind in ["error", "stdin", "stdout", "stderr"] {
        spdy.open(&[("streamtype", kind)]).await;
    }
    let written = || running.backend.written.load(Ordering::SeqCst);
    // It goes on for as long as there is room on the way.
    let mut before = usize::MAX;
    while before != written() {
        before = written();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(before < 32 << 20, "{before} bytes went somewhere");
    // It still listens: when the client reads, it goes on.
    while written() == before {
        spdy.frame().await.unwrap();
    }
    drop(spdy);
    running.someone_left().await;
}

/// What a process does not take is not read from the connection, whose end must be seen all the same.
#[tokio::test]
async fn a_client_that_is_killed_with_more_to_send_is_noticed() {
    let (running, port) = (Running::new(), forward::never().await);
    let mut exec = running.spdy(&running.exec(&["sleep"], ALL), &["v4.channel.k8s.io"]).await;
    for kind in ["error", "stdin", "stdout", "stderr"] {
        exec.open(&[("streamtype", kind)]).await;
    }
    let mut ports = running.spdy(&running.ports(&[]), &["portforward.k8s.io"]).await;
    for kind in ["error", "data"] {
        ports.open(&[("streamtype", kind), ("port", &port.to_string())]).await;
    }
    for spdy in [&mut exec, &mut ports] {
        let sent = tokio::time::timeout(Duration::from_secs(1), async {
            loop {
                spdy.data(3, &[1; 256 << 10], false).await.unwrap();
            }
        });
        assert!(sent.await.is_err());
        spdy.socket.set_zero_linger().unwrap();
    }
    drop((exec, ports));
    running.someone_left().await;
}

/// The end of its connection waits behind what nobody takes, so that only its kernel can tell.
#[tokio::test]
async fn a_client_that_closes_with_more_to_send_is_noticed() {
    let running = Running::new();
    let mut exec = running.spdy(&running.exec(&["sleep"], ALL), &["v4.channel.k8s.io"]).await;
    for kind in ["error", "stdin", "stdout", "stderr"] {
        exec.open(&[("streamtype", kind)]).await;
        exec.frame().await.unwrap();
    }
    let mut websocket = running.websocket(&running.exec(&["sleep"], ALL), Some("v5.channel.k8s.io")).await;
    // What is received and not read would make the kernel reset it without our doing.
    assert!(websocket.next().await.unwrap().is_ok());
    let enough = Duration::from_secs(1);
    let sent = async { while exec.data(3, &[1; 256 << 10], false).await.is_ok() {} };
    assert!(tokio::time::timeout(enough, sent).await.is_err());
    let sent = async { while websocket.send(Message::binary(vec![0; 256 << 10])).await.is_ok() {} };
    assert!(tokio::time::timeout(enough, sent).await.is_err());
    drop((exec, websocket));
    running.someone_left().await;
    while running.backend.abandoned.load(Ordering::SeqCst) < 2 {
        running.someone_left().await;
    }
}

/// It is nudged all the while.
#[tokio::test]
async fn a_client_whose_input_is_stuck_stays_and_is_idle() {
    let config = Config { idle_timeout: Duration::from_secs(5), ..Config::default() };
    let running = Running::with(&config);
    let mut spdy = running.spdy(&running.exec(&["sleep"], ALL), &["v4.channel.k8s.io"]).await;
    for kind in ["error", "stdin", "stdout", "stderr"] {
        spdy.open(&[("streamtype", kind)]).await;
        spdy.frame().await.unwrap();
    }
    let sent = async { while spdy.data(3, &[1; 256 << 10], false).await.is_ok() {} };
    assert!(tokio::time::timeout(Duration::from_secs(1), sent).await.is_err());
    let nudge = spdy.frame().await.unwrap();
    assert!(matches!(&nudge, Frame::Data(_, bytes, false) if bytes.is_empty()), "{nudge:?}");
    assert_eq!(running.backend.abandoned.load(Ordering::SeqCst), 0);
    running.someone_left().await;
}

/// Answers to pings gather no more than anything else.
#[tokio::test]
async fn a_client_that_only_asks_is_left_alone() {
    let running = Running::new();
    let mut spdy = running.spdy(&running.exec(&["sleep"], ALL), &["v4.channel.k8s.io"]).await;
    for kind in ["error", "stdin", "stdout", "stderr"] {
        spdy.open(&[("streamtype", kind)]).await;
    }
    let pings = [&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1][..]; 8192].concat();
    let sent = tokio::time::timeout(Duration::from_secs(2), async {
        for _ in 0..4096 {
            spdy.socket.write_all(&pings).await.unwrap();
        }
    });
    assert!(sent.await.is_err(), "384 MiB of pings were answered to nobody");
}

#[tokio::test]
async fn a_session_without_a_byte_ends() {
    let config = Config { idle_timeout: Duration::from_millis(200), ..Config::default() };
    let running = Running::with(&config);
    let mut spdy = running.spdy(&running.exec(&["sleep"], ALL), &["v4.channel.k8s.io"]).await;
    for kind in ["error", "stdin", "stdout", "stderr"] {
        spdy.open(&[("streamtype", kind)]).await;
    }
    running.someone_left().await;
    while spdy.frame().await.is_some() {}
}
