//! S3: clients that speak gRPC, HTTP/2 or protobuf badly, or too much of it. The daemon refuses, goes on, and stays small.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::HeaderMap;
use hyper_util::rt::{TokioExecutor, TokioIo};
use vaquita_proto::cri;

use crate::support::{Node, Pod, eventually};

/// What a misuse may cost in memory.
const MEMORY: usize = 32 << 20;

/// What the daemon uses.
struct Used<'a> {
    node: &'a Node,
    memory: usize,
    fds: usize,
}

impl<'a> Used<'a> {
    fn now(node: &'a Node) -> Self {
        answers(node);
        let daemon = node.pids()[0];
        let status = std::fs::read_to_string(format!("/proc/{daemon}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let memory = line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10;
        let fds = std::fs::read_dir(format!("/proc/{daemon}/fd")).unwrap().count();
        Self { node, memory, fds }
    }

    /// Somebody else is answered, and nothing is left of what was done since.
    #[track_caller]
    fn and_no_more(&self, what: &str) {
        let grown = Self::now(self.node).memory.saturating_sub(self.memory);
        assert!(grown < MEMORY, "{what}: the daemon has grown by {grown} bytes");
        eventually(what, || (Self::now(self.node).fds <= self.fds).then_some(()));
    }
}

/// A client of its own asks for the version.
#[track_caller]
fn answers(node: &Node) {
    let answer = node.wait(node.cri().version(cri::VersionRequest::default()));
    assert_eq!(answer.unwrap().into_inner().runtime_name, "vaquita");
}

/// Posts bytes as the whole body of a call; the status that comes back.
fn post(node: &Node, method: &str, body: Vec<u8>) -> Option<u16> {
    node.wait(async {
        let socket = tokio::net::UnixStream::connect(node.socket()).await.unwrap();
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = hyper::Request::post(format!("http://localhost/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let response = client.send_request(request).await.unwrap();
        let of = |headers: &HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse().ok();
        let at_once = of(response.headers());
        let later = response.into_body().collect().await.ok();
        drop(client);
        let _ = connection.await;
        at_once.or_else(|| of(later?.trailers()?))
    })
}

/// A message of gRPC that says it has `length` bytes.
fn message(length: u32, bytes: &[u8]) -> Vec<u8> {
    [&[0], &length.to_be_bytes()[..], bytes].concat()
}

fn whole(bytes: &[u8]) -> Vec<u8> {
    message(u32::try_from(bytes.len()).unwrap(), bytes)
}

#[test]
fn s3_malformed_messages_are_refused_and_nothing_else_happens() {
    const OUT_OF_RANGE: u16 = tonic::Code::OutOfRange as u16;
    const INTERNAL: u16 = tonic::Code::Internal as u16;
    let node = Node::start();
    let used = Used::now(&node);
    let refused: [(&str, Vec<u8>, u16); 9] = [
        ("a length of 1 GiB", message(1 << 30, b"x"), OUT_OF_RANGE),
        ("a length of 4 GiB", message(u32::MAX, b""), OUT_OF_RANGE),
        ("17 MiB", whole(&vec![0; 17 << 20]), OUT_OF_RANGE),
        ("less than it says", message(100, b"\x0a"), INTERNAL),
        ("half a head", vec![0, 0, 0], INTERNAL),
        ("an unknown compression", [&[1], &whole(b"")[1..]].concat(), INTERNAL),
        ("no protobuf", whole(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), INTERNAL),
        ("a field that is longer than the message", whole(b"\x0a\xff\xff\xff\xff\x0f"), INTERNAL),
        ("groups 10,000 deep", whole(&[0xa3, 0x06].repeat(10_000)), INTERNAL),
    ];
    for method in ["RuntimeService/Version", "RuntimeService/RunPodSandbox", "ImageService/PullImage"] {
        let method = format!("runtime.v1.{method}");
        for (what, body, code) in &refused {
            assert_eq!(post(&node, &method, body.clone()), Some(*code), "{method}: {what}");
        }
    }
    used.and_no_more("malformed messages");
    assert!(!node.log().contains("a fault of vaquita"), "{}", node.log());
    node.finish();
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// The headers of a call, each a literal without indexing (RFC 7541, section 6.2.2).
fn headers() -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", "/runtime.v1.RuntimeService/Version"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// What a client begins with.
fn hello() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(SETTINGS, 0, 0, b"")].concat()
}

/// Sends frames without end, and reads what comes, until the daemon has had enough. How many it took.
#[track_caller]
fn flood(node: &Node, first: &[u8], next: impl Fn(u32) -> Vec<u8>) -> u32 {
    const MANY: u32 = 1_000_000;
    let mut socket = UnixStream::connect(node.socket()).unwrap();
    let mut reader = socket.try_clone().unwrap();
    let reader = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    let mut sent = socket.write_all(&[&hello(), first].concat());
    let mut number = 0;
    while sent.is_ok() && number < MANY {
        number += 1;
        sent = socket.write_all(&next(number));
    }
    let _ = socket.shutdown(std::net::Shutdown::Both);
    let _ = reader.join().unwrap();
    assert!(sent.is_err(), "it took all");
    number
}

#[test]
fn s3_floods_end_their_connection_alone() {
    let node = Node::start();
    let used = Used::now(&node);
    let call = frame(HEADERS, END_HEADERS, 1, &headers());
    flood(&node, &call, |_| frame(DATA, 0, 1, b""));
    used.and_no_more("empty DATA frames");
    flood(&node, b"", |number| {
        let stream = 2 * number - 1;
        let begun = frame(HEADERS, END_HEADERS, stream, &headers());
        [begun, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    });
    used.and_no_more("calls that are taken back at once");
    // A header of which there is always more: 0, a name of 1 byte, a value of 100.
    let more = [&[0, 1, b'a', 100][..], &[b'b'; 100]].concat().repeat(100);
    flood(&node, &frame(HEADERS, 0, 1, &headers()), |_| frame(CONTINUATION, 0, 1, &more));
    used.and_no_more("CONTINUATION frames");
    flood(&node, &frame(HEADERS, 0, 1, &headers()), |_| frame(CONTINUATION, 0, 1, b""));
    used.and_no_more("empty CONTINUATION frames");
    flood(&node, b"", |number| frame(HEADERS, END_HEADERS, 2 * number, &headers()));
    used.and_no_more("calls with the server's numbers");
    node.finish();
}

/// Frames that have to be answered, and nobody reads the answers: the daemon stops to read, and keeps little.
#[test]
fn s3_answers_that_nobody_reads_do_not_pile_up() {
    let node = Node::start();
    let used = Used::now(&node);
    let mut socket = UnixStream::connect(node.socket()).unwrap();
    socket.write_all(&hello()).unwrap();
    socket.set_write_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
    let pings = frame(PING, 0, 0, b"12345678").repeat(1000);
    let mut sent = 0;
    while sent < 64 << 20 && socket.write_all(&pings).is_ok() {
        sent += pings.len();
    }
    assert!(sent < 64 << 20, "it took all");
    let grown = Used::now(&node).memory.saturating_sub(used.memory);
    assert!(grown < MEMORY, "the daemon has grown by {grown} bytes");
    drop(socket);
    used.and_no_more("pings");
    node.finish();
}

#[test]
fn s3_idle_connections_make_way() {
    let node = Node::start();
    // With the first pod the daemon begins what it keeps: the process that shims are copies of.
    Pod::run(&node, "first").remove();
    let used = Used::now(&node);
    // Somebody with a call under way, who is not to notice anything.
    let mut cri = node.cri();
    let mut events = node.wait(cri.get_container_events(cri::GetEventsRequest {})).unwrap().into_inner();
    let idle: Vec<_> = (0..10_000)
        .map(|_| {
            let mut socket = UnixStream::connect(node.socket()).unwrap();
            // It may have to go before it has spoken.
            let _ = socket.write_all(&hello());
            socket
        })
        .collect();
    node.wait(cri.version(cri::VersionRequest::default())).unwrap();
    // Those before it in the queue of the socket come first.
    eventually("a new client to be let in", || {
        node.wait(node.cri().version(cri::VersionRequest::default())).ok()
    });
    let now = Used::now(&node);
    assert!(now.fds < used.fds + 300, "{} file descriptors, before {}", now.fds, used.fds);
    assert!(now.memory < used.memory + MEMORY, "{} bytes, before {}", now.memory, used.memory);
    let pod = Pod::run(&node, "event");
    let event = node.wait(events.message()).unwrap().expect("the stream goes on");
    assert_eq!(event.container_id, pod.id);
    pod.remove();
    // The first have been told.
    let mut rest = Vec::new();
    let mut first = &idle[0];
    first.read_to_end(&mut rest).unwrap_or_default();
    drop((events, cri, idle));
    used.and_no_more("idle connections");
    node.finish();
}

/// As critest's do, which opens two for each of its specifications and closes none.
#[test]
fn clients_that_stay_make_way_for_those_that_come() {
    let node = Node::start();
    let mut stay = Vec::new();
    for number in 0..300 {
        let mut cri = node.cri();
        let answer = node.wait(cri.version(cri::VersionRequest::default()));
        assert!(answer.is_ok(), "client {number}: {answer:?}");
        stay.push(cri);
    }
    drop(stay);
    node.finish();
}
