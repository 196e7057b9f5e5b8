//! Ports over SPDY and WebSocket.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::spdy::{Frame, Spdy};
use crate::support::Running;
use crate::websocket;

/// A port that sends back what it gets, and ends where its client does.
pub(crate) async fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = socket.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        }
    });
    port
}

/// A port whose connections are never read from.
pub(crate) async fn never() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut all = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            all.push(socket);
        }
    });
    port
}

/// A port that nobody listens at.
async fn nobody() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port()
}

async fn pair<S>(spdy: &mut Spdy<S>, port: u16, name: Option<&str>) -> (u32, u32)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let port = port.to_string();
    let mut ids = Vec::new();
    for kind in ["error", "data"] {
        let mut headers = vec![("streamtype", kind), ("port", &port)];
        headers.extend(name.map(|name| ("requestid", name)));
        let stream = spdy.open(&headers).await;
        assert_eq!(spdy.frame().await, Some(Frame::Reply(stream)));
        ids.push(stream);
    }
    (ids[0], ids[1])
}

/// The data of a stream up to its end; other streams may end meanwhile.
async fn until_end<S>(spdy: &mut Spdy<S>, stream: u32) -> Vec<u8>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut all = Vec::new();
    loop {
        match spdy.frame().await.unwrap() {
            Frame::Data(id, bytes, fin) if id == stream => {
                all.extend(bytes);
                if fin {
                    return all;
                }
            }
            Frame::Data(_, bytes, true) => assert!(bytes.is_empty()),
            other => panic!("{other:?}"),
        }
    }
}

const PROTOCOL: [&str; 1] = ["portforward.k8s.io"];

#[tokio::test]
async fn many_connections_go_over_one() {
    let (running, port) = (Running::new(), echo().await);
    let mut spdy = running.spdy(&running.ports(&[]), &PROTOCOL).await;
    for round in 0..3 {
        // The first as clients of old do it.
        let name = format!("{round}");
        let name = (round > 0).then_some(name.as_str());
        let (error, data) = pair(&mut spdy, port, name).await;
        spdy.data(data, &[round; 100_000], false).await.unwrap();
        spdy.data(data, b"end", true).await.unwrap();
        let mut expected = vec![round; 100_000];
        expected.extend(b"end");
        assert!(until_end(&mut spdy, data).await == expected);
        assert_eq!(spdy.frame().await, Some(Frame::Data(error, Vec::new(), true)));
    }
}

#[tokio::test]
async fn twenty_at_once_do_not_mix() {
    let (running, port) = (Running::new(), echo().await);
    let mut spdy = running.spdy(&running.ports(&[]), &PROTOCOL).await;
    let mut pairs = Vec::new();
    for number in 0..20_u8 {
        pairs.push((number, pair(&mut spdy, port, Some(&number.to_string())).await));
    }
    for (number, (_, data)) in &pairs {
        spdy.data(*data, &[*number; 1000], true).await.unwrap();
    }
    let (mut all, mut ends) = (std::collections::BTreeMap::<u32, Vec<u8>>::new(), 0);
    while ends < 40 {
        let Some(Frame::Data(stream, bytes, fin)) = spdy.frame().await else { panic!() };
        all.entry(stream).or_default().extend(bytes);
        ends += usize::from(fin);
    }
    for (number, (error, data)) in pairs {
        assert_eq!(all[&data], [number; 1000]);
        assert!(all[&error].is_empty());
    }
}

#[tokio::test]
async fn a_connection_that_cannot_be_made_is_told_and_harms_no_other() {
    let (running, port, nobody) = (Running::new(), echo().await, nobody().await);
    let mut spdy = running.spdy(&running.ports(&[]), &PROTOCOL).await;
    let (error, data) = pair(&mut spdy, nobody, Some("a")).await;
    let reason = until_end(&mut spdy, error).await;
    assert!(String::from_utf8(reason).unwrap().starts_with(&format!("nobody at {nobody}")));
    assert_eq!(spdy.frame().await, Some(Frame::Reset(data, 5)));
    assert_eq!(spdy.frame().await, Some(Frame::Reset(error, 5)));
    let (_, data) = pair(&mut spdy, port, Some("b")).await;
    spdy.data(data, b"still here", true).await.unwrap();
    assert_eq!(until_end(&mut spdy, data).await, b"still here");
}

#[tokio::test]
async fn a_connection_that_the_client_resets_is_closed() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let running = Running::new();
    let mut spdy = running.spdy(&running.ports(&[]), &PROTOCOL).await;
    let (error, data) = pair(&mut spdy, port, Some("a")).await;
    let (mut theirs, _) = listener.accept().await.unwrap();
    spdy.control(3, &[data.to_be_bytes(), 5_u32.to_be_bytes()].concat()).await;
    assert_eq!(theirs.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(spdy.frame().await, Some(Frame::Data(error, Vec::new(), true)));
    // And with the session, all others.
    pair(&mut spdy, port, Some("b")).await;
    let (mut theirs, _) = listener.accept().await.unwrap();
    drop(spdy);
    assert_eq!(theirs.read(&mut [0; 8]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn streams_without_sense_are_refused() {
    let running = Running::new();
    let mut spdy = running.spdy(&running.ports(&[]), &PROTOCOL).await;
    let long = "x".repeat(1000);
    for headers in [
        &[("streamtype", "data"), ("port", "0")][..],
        &[("streamtype", "data"), ("port", "65536")],
        &[("streamtype", "data")],
        &[("streamtype", "stdin"), ("port", "80")],
        &[("port", "80")],
        &[("streamtype", "data"), ("port", "80"), ("requestid", &long)],
    ] {
        let stream = spdy.open(headers).await;
        assert_eq!(spdy.frame().await, Some(Frame::Reset(stream, 1)));
    }
    // The same half twice.
    for expected in [Frame::Reply(13), Frame::Reply(15)] {
        spdy.open(&[("streamtype", "error"), ("port", "80"), ("requestid", "1")]).await;
        assert_eq!(spdy.frame().await, Some(expected));
    }
    assert_eq!(spdy.frame().await, Some(Frame::Reset(15, 1)));
}

#[tokio::test]
async fn one_client_has_only_so_many() {
    let (running, port) = (Running::new(), echo().await);
    let mut spdy = running.spdy(&running.ports(&[]), &PROTOCOL).await;
    for number in 0..256 {
        pair(&mut spdy, port, Some(&number.to_string())).await;
    }
    let stream = spdy.open(&[("streamtype", "error"), ("port", "80"), ("requestid", "x")]).await;
    assert_eq!(spdy.frame().await, Some(Frame::Reset(stream, 3)));
}

/// As kubectl does it since 1.31.
#[tokio::test]
async fn spdy_may_go_through_a_websocket() {
    let (running, port) = (Running::new(), echo().await);
    let mut socket = running.websocket(&running.ports(&[]), Some("SPDY/3.1+portforward.k8s.io")).await;
    let (near, mut far) = tokio::io::duplex(4096);
    let mut spdy = Spdy::new(near);
    let pump = async {
        let mut buffer = [0; 1000];
        loop {
            tokio::select! {
                read = far.read(&mut buffer) => match read.unwrap() {
                    0 => break,
                    count => websocket::send(&mut socket, &buffer[..count]).await,
                },
                message = websocket::receive(&mut socket) => match message {
                    Some(bytes) => far.write_all(&bytes).await.unwrap(),
                    None => break,
                },
            }
        }
    };
    let client = async {
        let (error, data) = pair(&mut spdy, port, Some("a")).await;
        spdy.data(data, &[7; 10_000], true).await.unwrap();
        assert_eq!(until_end(&mut spdy, data).await, [7; 10_000]);
        assert_eq!(spdy.frame().await, Some(Frame::Data(error, Vec::new(), true)));
        drop(spdy);
    };
    tokio::join!(pump, client);
}

#[tokio::test]
async fn ports_may_be_channels_of_a_websocket() {
    let (running, port, nobody) = (Running::new(), echo().await, nobody().await);
    let path = running.ports(&[port, nobody]);
    let mut socket = running.websocket(&path, Some("v4.channel.k8s.io")).await;
    for (channel, port) in [(0, port), (1, port), (2, nobody), (3, nobody)] {
        let [low, high] = port.to_le_bytes();
        assert_eq!(websocket::receive(&mut socket).await.unwrap(), [channel, low, high]);
    }
    let error = websocket::receive(&mut socket).await.unwrap();
    assert!(error.starts_with(b"\x03nobody at"), "{error:?}");
    websocket::send(&mut socket, b"\0hello").await;
    assert_eq!(websocket::receive(&mut socket).await.unwrap(), b"\0hello");
    let (answer, _) = running
        .request(
            "GET",
            &running.ports(&[]),
            &[
                "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            ],
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn a_port_that_takes_nothing_stops_the_client() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let running = Running::new();
    let mut spdy = running.spdy(&running.ports(&[]), &PROTOCOL).await;
    let (_, data) = pair(&mut spdy, port, Some("a")).await;
    let (theirs, _) = listener.accept().await.unwrap();
    // More than all buffers on the way hold: what is sent gathers nowhere.
    let sent = tokio::time::timeout(std::time::Duration::from_secs(2), async {
        for _ in 0..1024 {
            spdy.data(data, &[1; 256 << 10], false).await.unwrap();
        }
    });
    assert!(sent.await.is_err(), "256 MiB went somewhere");
    drop::<TcpStream>(theirs);
}
