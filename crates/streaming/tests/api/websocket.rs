//! Processes over WebSocket, by somebody else's client.

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use vaquita_streaming::Wanted;

use crate::support::{ALL, Running};

impl Running {
    /// A connection upgraded to a WebSocket with that protocol.
    pub(crate) async fn websocket(&self, path: &str, protocol: Option<&str>) -> WebSocketStream<TcpStream> {
        let (socket, chosen) = self.try_websocket(path, protocol).await.unwrap();
        assert_eq!(chosen.as_deref(), protocol);
        socket
    }

    async fn try_websocket(
        &self,
        path: &str,
        protocol: Option<&str>,
    ) -> Result<(WebSocketStream<TcpStream>, Option<String>), Error> {
        let address = self.server.address();
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        if let Some(protocol) = protocol {
            request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
        }
        let socket = TcpStream::connect(address).await.unwrap();
        let (socket, answer) = tokio_tungstenite::client_async(request, socket).await?;
        let chosen =
            answer.headers().get("sec-websocket-protocol").map(|name| name.to_str().unwrap().to_owned());
        Ok((socket, chosen))
    }
}

pub(crate) async fn send(socket: &mut WebSocketStream<TcpStream>, bytes: &[u8]) {
    socket.send(Message::binary(bytes.to_vec())).await.unwrap();
}

/// The next message, or none at the end, which must be a good one.
pub(crate) async fn receive(socket: &mut WebSocketStream<TcpStream>) -> Option<Vec<u8>> {
    match socket.next().await {
        Some(Ok(Message::Binary(bytes))) => Some(bytes.to_vec()),
        Some(Ok(Message::Text(text))) => Some(text.as_bytes().to_vec()),
        Some(Ok(Message::Close(Some(close)))) => {
            assert_eq!(close.code, CloseCode::Normal);
            None
        }
        None => None,
        other => panic!("{other:?}"),
    }
}

/// All messages up to the end, one after the other for each channel.
async fn rest(socket: &mut WebSocketStream<TcpStream>) -> [Vec<u8>; 4] {
    let mut all: [Vec<u8>; 4] = Default::default();
    while let Some(message) = receive(socket).await {
        all[usize::from(message[0] & 0xf)].extend(&message[1..]);
    }
    all
}

#[tokio::test]
async fn the_versions_tell_the_end_in_their_ways() {
    let running = Running::new();
    for (protocol, success, failure) in [
        (None, "", "exit code 7"),
        (Some("channel.k8s.io"), "", "exit code 7"),
        (Some("v4.channel.k8s.io"), r#""status":"Success""#, r#""message":"7""#),
        (Some("v5.channel.k8s.io"), r#""status":"Success""#, r#""message":"7""#),
    ] {
        let mut socket = running.websocket(&running.exec(&["both"], ALL), protocol).await;
        // So that a client knows that it is connected.
        assert_eq!(receive(&mut socket).await.unwrap(), [1]);
        let [_, stdout, stderr, error] = rest(&mut socket).await;
        assert_eq!((&stdout[..], &stderr[..]), (&b"out"[..], &b"err"[..]));
        let error = String::from_utf8(error).unwrap();
        assert!(error.contains(success) && error.is_empty() == success.is_empty(), "{error}");
        let mut socket = running.websocket(&running.exec(&["exit", "7"], ALL), protocol).await;
        let [.., error] = rest(&mut socket).await;
        assert!(String::from_utf8(error).unwrap().contains(failure));
    }
}

#[tokio::test]
async fn base64_is_text() {
    let running = Running::new();
    for (protocol, status) in
        [("base64.channel.k8s.io", None), ("v4.base64.channel.k8s.io", Some("3eyJtZXRh"))]
    {
        let mut socket = running.websocket(&running.exec(&["both"], ALL), Some(protocol)).await;
        let mut messages = Vec::new();
        while let Some(message) = socket.next().await {
            match message.unwrap() {
                Message::Text(text) => messages.push(text.to_string()),
                Message::Close(_) => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(messages[..3], ["1", "1b3V0", "2ZXJy"]);
        assert_eq!(messages.get(3).map(|message| &message[..9]), status);
        let mut socket = running.websocket(&running.exec(&["cat"], ALL), Some(protocol)).await;
        socket.send(Message::text("0aGVsbG8=")).await.unwrap();
        assert_eq!(receive(&mut socket).await.unwrap(), b"1");
        assert_eq!(receive(&mut socket).await.unwrap(), b"1aGVsbG8=");
        socket.send(Message::text("0not base64!")).await.unwrap();
        let Some(Ok(Message::Close(Some(close)))) = socket.next().await else { panic!() };
        assert_eq!(close.code, CloseCode::Protocol);
    }
}

/// What the fifth version is for.
#[tokio::test]
async fn input_can_be_ended() {
    let running = Running::new();
    let mut socket = running.websocket(&running.exec(&["cat"], ALL), Some("v5.channel.k8s.io")).await;
    send(&mut socket, b"\0one ").await;
    socket.send(Message::Ping("are you there".into())).await.unwrap();
    send(&mut socket, b"\0two").await;
    // Not for us, and nothing at all.
    send(&mut socket, b"\x01three").await;
    send(&mut socket, b"").await;
    send(&mut socket, &[255, 0]).await;
    let (mut stdout, mut pongs) = (Vec::new(), 0);
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Binary(bytes) if bytes[0] == 1 => stdout.extend(&bytes[1..]),
            Message::Binary(bytes) => assert_eq!(bytes[..2], *b"\x03{"),
            Message::Pong(text) => {
                assert_eq!(&text[..], b"are you there");
                pongs += 1;
            }
            Message::Close(close) => assert_eq!(close.unwrap().code, CloseCode::Normal),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((&stdout[..], pongs), (&b"one two"[..], 1));
}

#[tokio::test]
async fn the_size_of_a_terminal_has_its_channel() {
    let running = Running::new();
    let wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: true };
    let mut socket = running.websocket(&running.exec(&["size"], wanted), Some("v4.channel.k8s.io")).await;
    send(&mut socket, br#"_{"Width":1,"Height":2}"#).await;
    send(&mut socket, b"\x04{\"Width\":90,\"Height\":30}").await;
    assert_eq!(rest(&mut socket).await[1], b"90x30");
}

#[tokio::test]
async fn a_close_and_a_disappearance_are_noticed() {
    let running = Running::new();
    let mut socket = running.websocket(&running.exec(&["sleep"], ALL), Some("v5.channel.k8s.io")).await;
    socket.close(None).await.unwrap();
    running.someone_left().await;
    drop(running.websocket(&running.exec(&["sleep"], ALL), Some("v5.channel.k8s.io")).await);
    running.someone_left().await;
}

#[tokio::test]
async fn what_is_not_a_websocket_of_ours_is_refused() {
    let running = Running::new();
    let refused = running.try_websocket(&running.exec(&["sleep"], ALL), Some("v6.channel.k8s.io")).await;
    let Err(Error::Http(answer)) = refused else { panic!("{refused:?}") };
    assert_eq!(answer.status(), 403);
    let names: Vec<_> = answer.headers().get_all("x-accepted-stream-protocol-versions").iter().collect();
    assert_eq!(names.len(), 5, "{names:?}");
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    for (headers, status) in [
        (&[upgrade, "Sec-WebSocket-Version: 13\r\n"][..], 400),
        (&[upgrade, "Sec-WebSocket-Version: 13\r\n", "Sec-WebSocket-Key: c2hvcnQ=\r\n"], 400),
        (&[upgrade, "Sec-WebSocket-Version: 8\r\n", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"], 426),
    ] {
        let (answer, _) = running.request("GET", &running.exec(&["sleep"], ALL), headers).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}
