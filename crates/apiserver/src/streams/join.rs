//! Two connections made one.

use http::header::{CONNECTION, HOST, UPGRADE};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;

use crate::Status;
use crate::http::Body;

/// The bytes that are on their way in each direction. More waits in the sockets of who sends.
const BUFFER: usize = 16 << 10;

/// The most bytes of an answer that is a refusal.
const REFUSAL: usize = 64 << 10;

/// Whether the client wants to go on with another protocol, on a connection on which it can.
pub(super) fn is_upgrade(request: &Request<Incoming>) -> bool {
    let named = |value: &HeaderValue| {
        value.to_str().is_ok_and(|text| text.split(',').any(|one| one.trim().eq_ignore_ascii_case("upgrade")))
    };
    request.version() == Version::HTTP_11
        && request.headers().contains_key(UPGRADE)
        && request.headers().get_all(CONNECTION).iter().any(named)
}

/// Asks at the URL for what the client asks, and joins both connections where the answer is yes.
pub(super) async fn join(request: Request<Incoming>, url: &str) -> Result<Response<Body>, Status> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        Status::internal(format!("{what} the node's streaming server: {error}"))
    };
    let (authority, path) = split(url).ok_or_else(|| failed("cannot use the URL of", &url))?;
    let socket =
        TcpStream::connect(authority.as_str()).await.map_err(|error| failed("cannot reach", &error))?;
    let _ = socket.set_nodelay(true);
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(socket)).await.map_err(|error| failed("cannot talk to", &error))?;
    tokio::spawn(connection.with_upgrades());

    let mut asked = Request::builder().method(request.method()).uri(path);
    if let Some(headers) = asked.headers_mut() {
        pass(request.headers(), headers);
        let host = HeaderValue::from_str(authority.as_str());
        headers.insert(HOST, host.map_err(|error| failed("cannot name", &error))?);
    }
    let asked = asked.body(Empty::<Bytes>::new()).map_err(|error| failed("cannot ask", &error))?;
    let mut answer = sender.send_request(asked).await.map_err(|error| failed("cannot ask", &error))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return refusal(answer).await;
    }
    let theirs = hyper::upgrade::on(&mut answer);
    let ours = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok((ours, theirs)) = tokio::try_join!(ours, theirs) else { return };
        let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
        // Where one side ends its writing the other is told so, and may go on with its own. A connection that broke ends both.
        let _ = copy_bidirectional_with_sizes(&mut ours, &mut theirs, BUFFER, BUFFER).await;
    });
    let mut joined = Response::new(Body::empty());
    *joined.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    pass(answer.headers(), joined.headers_mut());
    Ok(joined)
}

/// The headers that say what the connection becomes.
fn pass(from: &HeaderMap, to: &mut HeaderMap) {
    let meant = |name: &HeaderName| {
        let text = name.as_str();
        [CONNECTION, UPGRADE].contains(name)
            || text.starts_with("sec-websocket-")
            || text == "x-stream-protocol-version"
            || text == "x-accepted-stream-protocol-versions"
    };
    for (name, value) in from.iter().filter(|(name, _)| meant(name)) {
        to.append(name, value.clone());
    }
}

async fn refusal(answer: Response<Incoming>) -> Result<Response<Body>, Status> {
    let (head, body) = answer.into_parts();
    let text = Limited::new(body, REFUSAL).collect().await;
    let text = text.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let mut passed = Response::new(Body::full(text));
    *passed.status_mut() = head.status;
    pass(&head.headers, passed.headers_mut());
    passed.headers_mut().remove(CONNECTION);
    passed.headers_mut().remove(UPGRADE);
    Ok(passed)
}

/// Host with port, and path, of a URL without TLS.
fn split(url: &str) -> Option<(Authority, Uri)> {
    let parts = url.parse::<Uri>().ok()?.into_parts();
    let path = Uri::from(parts.path_and_query?);
    let authority = parts.authority.filter(|authority| authority.port().is_some())?;
    (parts.scheme == Some(Scheme::HTTP)).then_some((authority, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_urls_with_a_port_are_used() {
        let (authority, path) = split("http://127.0.0.1:4000/exec/x?y").unwrap();
        assert_eq!((authority.as_str(), path.to_string().as_str()), ("127.0.0.1:4000", "/exec/x?y"));
        assert_eq!(split("http://[::1]:4000/x").unwrap().0.as_str(), "[::1]:4000");
        for bad in ["https://127.0.0.1:4000/x", "http://127.0.0.1/x", "/x", ""] {
            assert!(split(bad).is_none(), "{bad}");
        }
    }
}
