//! Failures of probes as kubelet tells them, which are those of Go's libraries.

use std::time::Duration;

use super::http;
use crate::api::{Container, Probe};

/// A GET that had no answer.
pub(super) fn get(url: &str, error: &str) -> String {
    let host = url.split('/').nth(2).unwrap_or_default();
    // Ours is `GET <url>: connect: <error> (os error <n>)`.
    match error.split_once("connect: ") {
        Some((_, error)) => format!("Get {url:?}: dial tcp {host}: {}", connect(error)),
        None => {
            let error = error.split_once(": ").map_or(error, |(_, error)| error);
            format!("Get {url:?}: {error}")
        }
    }
}

/// A TCP connection that could not be made.
pub(super) fn dial(host: &str, port: u16, error: &str) -> String {
    format!("dial tcp {}:{port}: {}", http::bracketed(host), connect(error))
}

/// A probe that took too long.
pub(super) fn timeout(container: &Container, probe: &Probe, ip: &str, limit: Duration) -> String {
    let host = |own: &str| if own.is_empty() { ip.to_owned() } else { own.to_owned() };
    let number = |port| container.port_number(port).unwrap_or_default();
    if let Some(action) = &probe.http_get {
        let url = http::url(action, &host(&action.host), number(&action.port));
        return format!(
            "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        );
    }
    if let Some(socket) = &probe.tcp_socket {
        let host = host(&socket.host);
        return format!("dial tcp {}:{}: i/o timeout", http::bracketed(&host), number(&socket.port));
    }
    let port = probe.grpc.as_ref().map_or(0, |grpc| grpc.port);
    let (ip, seconds) = (http::bracketed(ip), limit.as_secs());
    let service = format!("{ip}:{port}");
    format!("timeout: failed to connect service {service:?} within {seconds}s: context deadline exceeded")
}

/// A gRPC server that is not healthy.
pub(super) fn grpc(text: &str) -> String {
    match text.strip_prefix("the service answers ") {
        Some(status) => format!("service unhealthy (responded with {status:?})"),
        None => text.to_owned(),
    }
}

/// An error of connect(2) as Go prints it.
fn connect(error: &str) -> String {
    let text = error.split(" (os error").next().unwrap_or(error);
    format!("connect: {}", text.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_says_it() {
        let refused = "Connection refused (os error 111)";
        assert_eq!(dial("10.0.0.2", 80, refused), "dial tcp 10.0.0.2:80: connect: connection refused");
        assert_eq!(dial("fd00::2", 80, refused), "dial tcp [fd00::2]:80: connect: connection refused");
        let url = "http://10.0.0.2:8080/ready";
        assert_eq!(
            get(url, &format!("GET {url}: connect: {refused}")),
            "Get \"http://10.0.0.2:8080/ready\": dial tcp 10.0.0.2:8080: connect: connection refused"
        );
        assert_eq!(
            grpc("the service answers NOT_SERVING"),
            "service unhealthy (responded with \"NOT_SERVING\")"
        );
    }
}
