//! What the daemon tells of itself.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use tonic::Request;
use vaquita_cri::{Kind, Server};
use vaquita_proto::cri;

use crate::support::Node;

fn read(mut stream: impl std::io::Read + std::io::Write, line: &str) -> String {
    stream.write_all(format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// A port that was free a moment ago.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_tells_of_itself_on_a_socket_and_a_port() {
    let mut node = Node::without_server();
    let address = free();
    node.config.metrics_address = Some(address);
    node.start().await;
    node.pull().await;
    let sandbox = node.run("told").await;
    node.launch(&sandbox, "main", &["sleep"]).await;
    let mut traced = Request::new(cri::ListContainersRequest::default());
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    traced.metadata_mut().insert("traceparent", parent.parse().unwrap());
    node.runtime().list_containers(traced).await.unwrap();
    let request = cri::ContainerStatusRequest { container_id: "ab".repeat(32), verbose: false };
    node.runtime().container_status(request).await.unwrap_err();

    let path = node.config.state.join("metrics.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let connect = path.clone();
    let (unix, tcp, other, post) = tokio::task::spawn_blocking(move || {
        (
            read(UnixStream::connect(connect).unwrap(), "GET /metrics"),
            read(TcpStream::connect(address).unwrap(), "GET /metrics"),
            read(TcpStream::connect(address).unwrap(), "GET /"),
            read(TcpStream::connect(address).unwrap(), "POST /metrics"),
        )
    })
    .await
    .unwrap();
    for text in [unix, tcp] {
        assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
        for line in [
            "vaquita_cri_requests_total{method=\"RunPodSandbox\",code=\"OK\"} 1\n",
            "vaquita_cri_requests_total{method=\"ContainerStatus\",code=\"NOT_FOUND\"} 1\n",
            "vaquita_cri_request_duration_seconds_count{method=\"ListContainers\"} 1\n",
            "vaquita_cri_requests_running 0\n",
            "vaquita_pods{state=\"ready\"} 1\n",
            "vaquita_containers{state=\"running\"} 1\n",
            "vaquita_shims 1\n",
            "vaquita_images 1\n",
            "vaquita_image_pulls_total{result=\"success\"} 1\n",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        for name in ["process_resident_memory_bytes", "process_threads", "process_open_fds", "image_bytes"] {
            let start = format!("\nvaquita_{name} ");
            let rest =
                &text[text.find(&start).unwrap_or_else(|| panic!("no {name} in {text}")) + start.len()..];
            assert!(rest.lines().next().unwrap().parse::<u64>().unwrap() > 0, "{name} in {text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
    assert!(other.starts_with("HTTP/1.1 404 "), "{other}");
    assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
    node.finish().await;
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_stay_on_the_host() {
    let node = Node::without_server();
    let mut config = node.config.clone();
    config.metrics_address = Some("0.0.0.0:0".parse().unwrap());
    let error = Server::start(config).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert!(error.to_string().contains("loopback"), "{error}");
}
