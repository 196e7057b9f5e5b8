//! Exec, Attach and PortForward over the connections that they hand out.

#[path = "../crates/streaming/tests/api/spdy.rs"]
mod spdy;

use std::collections::BTreeMap;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tonic::Code;
use vaquita_proto::cri;

use self::spdy::{Frame, Spdy};
use crate::support::{Node, Pod, eventually};

async fn exec_url(
    node: &Node,
    container: &str,
    command: &[&str],
    tty: bool,
) -> Result<String, tonic::Status> {
    let request = cri::ExecRequest {
        container_id: container.into(),
        cmd: command.iter().map(|&word| word.into()).collect(),
        tty,
        stdin: true,
        stdout: true,
        stderr: !tty,
    };
    node.cri().exec(request).await.map(|answer| answer.into_inner().url)
}

async fn attach_url(node: &Node, container: &str, tty: bool) -> Result<String, tonic::Status> {
    let request =
        cri::AttachRequest { container_id: container.into(), stdin: true, stdout: true, stderr: !tty, tty };
    node.cri().attach(request).await.map(|answer| answer.into_inner().url)
}

async fn port_url(node: &Node, pod: &str) -> Result<String, tonic::Status> {
    let request = cri::PortForwardRequest { pod_sandbox_id: pod.into(), port: Vec::new() };
    node.cri().port_forward(request).await.map(|answer| answer.into_inner().url)
}

/// Upgrades a connection to SPDY, as kubelet does.
async fn connect(url: &str, protocol: &str) -> Spdy<TcpStream> {
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: {protocol}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(socket.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    Spdy::new(socket)
}

/// A session with all streams open: their numbers are 1 for the error stream, then 3, 5, 7 in this order.
async fn session(url: &str, tty: bool) -> Spdy<TcpStream> {
    let mut spdy = connect(url, "v4.channel.k8s.io").await;
    for kind in ["error", "stdin", "stdout", if tty { "resize" } else { "stderr" }] {
        let stream = spdy.open(&[("streamtype", kind)]).await;
        assert_eq!(spdy.frame().await, Some(Frame::Reply(stream)));
    }
    spdy
}

fn text(streams: &BTreeMap<u32, (Vec<u8>, bool)>, stream: u32) -> String {
    String::from_utf8(streams[&stream].0.clone()).unwrap()
}

/// Reads until that text has come from the process.
async fn until(spdy: &mut Spdy<TcpStream>, wanted: &str) {
    let mut all = String::new();
    while !all.contains(wanted) {
        match spdy.frame().await {
            Some(Frame::Data(5, bytes, false)) => all += &String::from_utf8_lossy(&bytes),
            other => panic!("{other:?} after {all:?}"),
        }
    }
}

#[test]
fn a_command_has_input_output_and_an_exit_code() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "exec");
    let container = pod.start("main", &["sleep", "1000"]);
    let command = ["sh", "-c", "cat; echo problem >&2; exit 7"];
    node.wait(async {
        let mut spdy = session(&exec_url(&node, &container.id, &command, false).await.unwrap(), false).await;
        spdy.data(3, b"some input\n", false).await.unwrap();
        spdy.data(3, &[], true).await.unwrap();
        let streams = spdy.rest().await;
        assert_eq!((text(&streams, 5).as_str(), text(&streams, 7).as_str()), ("some input\n", "problem\n"));
        assert!(text(&streams, 1).contains(r#"{"reason":"ExitCode","message":"7"}"#));
        // A megabyte and more is complete, and waits for nobody who was left in the background.
        let command = ["sh", "-c", "sleep 1000 & seq 300000"];
        let mut spdy = session(&exec_url(&node, &container.id, &command, false).await.unwrap(), false).await;
        let streams = spdy.rest().await;
        let expected: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
        assert!(text(&streams, 5) == expected);
        assert_eq!(text(&streams, 1), r#"{"metadata":{},"status":"Success"}"#);
        let mut spdy =
            session(&exec_url(&node, &container.id, &["/no/such"], false).await.unwrap(), false).await;
        let status = text(&spdy.rest().await, 1);
        assert!(status.contains("/no/such") && status.contains("InternalError"), "{status}");
    });
    node.finish();
}

/// As `crictl -r websocket` does it.
#[test]
fn a_command_over_websocket() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "websocket");
    let container = pod.start("main", &["sleep", "1000"]);
    let mut all: [Vec<u8>; 4] = Default::default();
    node.wait(async {
        let url = exec_url(&node, &container.id, &["sh", "-c", "cat; exit 3"], false).await.unwrap();
        let address = url.strip_prefix("http://").unwrap().split_once('/').unwrap().0;
        let mut request = url.replace("http://", "ws://").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "v5.channel.k8s.io".parse().unwrap());
        let socket = TcpStream::connect(address).await.unwrap();
        let (mut socket, _) = tokio_tungstenite::client_async(request, socket).await.unwrap();
        socket.send(Message::binary(b"\0input".to_vec())).await.unwrap();
        socket.send(Message::binary(vec![255, 0])).await.unwrap();
        while let Some(Ok(Message::Binary(message))) = socket.next().await {
            all[usize::from(message[0])].extend(&message[1..]);
        }
    });
    assert_eq!(all[1], b"input");
    assert!(String::from_utf8_lossy(&all[3]).contains(r#""message":"3""#));
    node.finish();
}

#[test]
fn a_terminal_has_the_clients_size_and_ends_with_it() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "terminal");
    let container = pod.start("main", &["sleep", "1000"]);
    let script =
        r#"echo $TERM; until [ "$(stty size)" = "44 133" ]; do sleep 0.02; done; echo good size; sleep 777"#;
    node.wait(async {
        let url = exec_url(&node, &container.id, &["sh", "-c", script], true).await.unwrap();
        let mut spdy = session(&url, true).await;
        until(&mut spdy, "xterm").await;
        spdy.data(7, br#"{"Width":133,"Height":44}"#, false).await.unwrap();
        until(&mut spdy, "good size").await;
    });
    eventually("the command to end", || (!container.exec(&["ps"]).1.contains("777")).then_some(()));
    node.finish();
}

/// What it has put into the background was meant to stay.
#[test]
fn a_command_is_killed_when_its_client_goes() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "gone");
    let container = pod.start("main", &["sleep", "1000"]);
    node.wait(async {
        let command = ["sh", "-c", "sleep 778 & echo begun; exec sleep 777"];
        let url = exec_url(&node, &container.id, &command, false).await.unwrap();
        let mut spdy = session(&url, false).await;
        until(&mut spdy, "begun").await;
    });
    eventually("the command to be killed", || (!container.exec(&["ps"]).1.contains("777")).then_some(()));
    assert!(container.exec(&["ps"]).1.contains("778"));
    node.finish();
}

/// A client that does not read stops the process, and nothing gathers in the daemon.
#[test]
fn a_client_that_does_not_read_takes_no_memory() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "stuck");
    let container = pod.start("main", &["sleep", "1000"]);
    let before = resident(node.pids()[0]);
    node.wait(async {
        let mut stuck = Vec::new();
        for _ in 0..10 {
            let url = exec_url(&node, &container.id, &["yes"], false).await.unwrap();
            let mut spdy = session(&url, false).await;
            until(&mut spdy, "y").await;
            stuck.push(spdy);
        }
        // Others are served meanwhile.
        let url = exec_url(&node, &container.id, &["seq", "1000000"], false).await.unwrap();
        let output = session(&url, false).await.rest().await;
        assert!(text(&output, 5).ends_with("1000000\n"));
        let grown = resident(node.pids()[0]).saturating_sub(before);
        assert!(grown < 16 << 20, "ten clients that do not read took {grown} bytes");
    });
    eventually("the commands to be killed", || (!container.exec(&["ps"]).1.contains("yes")).then_some(()));
    node.finish();
}

#[test]
fn attached_clients_see_the_same_and_type_into_one_input() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "attach");
    let mut config = Pod::container_config("main", &["sh", "-c", "while read line; do echo got $line; done"]);
    config.stdin = true;
    let container = pod.start_config(config);
    node.wait(async {
        let mut one = session(&attach_url(&node, &container.id, false).await.unwrap(), false).await;
        let mut other = session(&attach_url(&node, &container.id, false).await.unwrap(), false).await;
        // Only what comes after a client has been attached is shown to it.
        loop {
            one.data(3, b"hello\n", false).await.unwrap();
            let soon = std::time::Duration::from_millis(50);
            if tokio::time::timeout(soon, until(&mut other, "got hello")).await.is_ok() {
                break;
            }
        }
        until(&mut one, "got hello").await;
        drop(one);
        other.data(3, b"again\n", false).await.unwrap();
        until(&mut other, "got again").await;
    });
    assert!(container.is_running());
    eventually("all of it in the log", || {
        let output = container.output();
        (output.contains("got hello\n") && output.contains("got again\n")).then_some(())
    });
    container.stop(0);
    let error = node.wait(attach_url(&node, &container.id, false)).unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    node.finish();
}

#[test]
fn attach_ends_with_the_container() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "ends");
    let mut config = Pod::container_config("main", &["sh", "-c", "read line; echo $line; exit 5"]);
    config.stdin = true;
    let container = pod.start_config(config);
    node.wait(async {
        let mut spdy = session(&attach_url(&node, &container.id, false).await.unwrap(), false).await;
        spdy.data(3, b"bye\n", false).await.unwrap();
        let streams = spdy.rest().await;
        assert_eq!(text(&streams, 5), "bye\n");
        assert_eq!(text(&streams, 1), r#"{"metadata":{},"status":"Success"}"#);
    });
    assert_eq!(container.exited().exit_code, 5);
    node.finish();
}

#[test]
fn ports_are_those_of_the_pod() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "ports");
    pod.start("main", &["nc", "-ll", "-p", "7000", "-e", "cat"]);
    let mut config = Pod::config(&node, "host");
    let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    context.namespace_options.get_or_insert_default().network = cri::NamespaceMode::Node.into();
    let host = Pod::run_config(&node, config);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    node.wait(async {
        let mut spdy = connect(&port_url(&node, &pod.id).await.unwrap(), "portforward.k8s.io").await;
        // The container may still be about to listen.
        loop {
            let (error, data) = pair(&mut spdy, 7000).await;
            spdy.data(data, &[7; 50_000], true).await.unwrap();
            let (echo, reason) = collect(&mut spdy, data, error).await;
            if reason.is_empty() {
                assert!(echo == [7; 50_000]);
                break;
            }
            assert!(reason.contains("refused"), "{reason}");
        }
        // What listens on the host is not in the pod.
        let (error, data) = pair(&mut spdy, port).await;
        let (_, reason) = collect(&mut spdy, data, error).await;
        assert!(reason.contains(&format!("localhost:{port}")) && reason.contains("refused"), "{reason}");
        let mut spdy = connect(&port_url(&node, &host.id).await.unwrap(), "portforward.k8s.io").await;
        pair(&mut spdy, port).await;
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        listener.accept().await.unwrap();
    });
    pod.stop();
    let error = node.wait(port_url(&node, &pod.id)).unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    node.finish();
}

/// The error stream and the data stream of a connection to a port.
async fn pair(spdy: &mut Spdy<TcpStream>, port: u16) -> (u32, u32) {
    let port = port.to_string();
    let error = spdy.open(&[("streamtype", "error"), ("port", &port)]).await;
    let data = spdy.open(&[("streamtype", "data"), ("port", &port)]).await;
    for stream in [error, data] {
        // The last words about a connection before this one may come first.
        let mut frame = spdy.frame().await;
        while let Some(Frame::Reset(..)) = frame {
            frame = spdy.frame().await;
        }
        assert_eq!(frame, Some(Frame::Reply(stream)));
    }
    (error, data)
}

/// What came from a port until its end, and the reason where it could not be reached.
async fn collect(spdy: &mut Spdy<TcpStream>, data: u32, error: u32) -> (Vec<u8>, String) {
    let (mut all, mut reason) = (Vec::new(), String::new());
    loop {
        match spdy.frame().await.unwrap() {
            Frame::Data(stream, bytes, _) if stream == data => all.extend(bytes),
            Frame::Data(stream, bytes, fin) if stream == error => {
                reason += &String::from_utf8(bytes).unwrap();
                if fin {
                    return (all, reason);
                }
            }
            Frame::Reset(..) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn requests_without_sense_get_no_url() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "requests");
    let container = pod.start("main", &["sleep", "1000"]);
    let good = cri::ExecRequest {
        container_id: container.id,
        cmd: vec!["true".into()],
        stdout: true,
        ..cri::ExecRequest::default()
    };
    let none = cri::ExecRequest { stdout: false, ..good.clone() };
    let both = cri::ExecRequest { tty: true, stderr: true, ..good.clone() };
    let empty = cri::ExecRequest { cmd: Vec::new(), ..good.clone() };
    let nameless = cri::ExecRequest { container_id: String::new(), ..good.clone() };
    let unknown = cri::ExecRequest { container_id: "ab".repeat(32), ..good };
    for (request, code) in [
        (none, Code::InvalidArgument),
        (both, Code::InvalidArgument),
        (empty, Code::InvalidArgument),
        (nameless, Code::InvalidArgument),
        (unknown, Code::NotFound),
    ] {
        let error = node.wait(node.cri().exec(request)).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
    }
    let request = cri::PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: vec![70_000] };
    assert_eq!(node.wait(node.cri().port_forward(request)).unwrap_err().code(), Code::InvalidArgument);
    for _ in 0..1000 {
        node.wait(port_url(&node, &pod.id)).unwrap();
    }
    assert_eq!(node.wait(port_url(&node, &pod.id)).unwrap_err().code(), Code::ResourceExhausted);
    node.finish();
}

/// T21: CVE-2022-23471, CVE-2025-64329. Clients that attach, change the size and vanish leave nothing.
#[test]
fn cve_2025_64329_clients_that_vanish_leave_nothing_behind() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "vanish");
    let mut config = Pod::container_config("main", &["sleep", "1000"]);
    config.stdin = true;
    config.tty = true;
    let container = pod.start_config(config);
    let visit = || async {
        for round in 0..250_u16 {
            let mut spdy =
                connect(&attach_url(&node, &container.id, true).await.unwrap(), "v4.channel.k8s.io").await;
            for kind in ["error", "stdin", "stdout", "resize"] {
                spdy.open(&[("streamtype", kind)]).await;
            }
            let size = format!(r#"{{"Width":{},"Height":{}}}"#, 80 + round % 100, 24 + round % 50);
            spdy.data(7, size.as_bytes(), false).await.unwrap();
            if round % 2 == 0 {
                while spdy.frame().await.unwrap() != Frame::Reply(7) {}
            }
            // As a kill does it when something was not read.
            spdy.socket.set_zero_linger().unwrap();
        }
    };
    let visits = || node.wait(async { tokio::join!(visit(), visit(), visit(), visit()) });
    visits();
    let settled =
        || node.pids().into_iter().map(|pid| (pid, count(pid, "fd"), count(pid, "task"))).collect::<Vec<_>>();
    let mut before = settled();
    eventually("the first clients to be forgotten", || {
        let now = settled();
        (std::mem::replace(&mut before, now.clone()) == now).then_some(())
    });
    let memory: Vec<_> = node.pids().into_iter().map(resident).collect();
    for _ in 0..5 {
        visits();
    }
    eventually("all clients to be forgotten", || {
        let no_more = |(now, before): (&(u32, usize, usize), &(u32, usize, usize))| {
            now.0 == before.0 && now.1 <= before.1 && now.2 <= before.2
        };
        settled().iter().zip(&before).all(no_more).then_some(())
    });
    for (pid, before) in node.pids().into_iter().zip(memory) {
        let grown = resident(pid).saturating_sub(before);
        assert!(grown < 4 << 20, "process {pid} has grown by {grown} bytes in 5000 sessions");
    }
    node.finish();
}

fn count(pid: u32, what: &str) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count()
}

/// Bytes of memory that a process has.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}
