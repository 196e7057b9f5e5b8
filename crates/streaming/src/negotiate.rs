//! Which protocol a request asks for, and which of those it gets.

use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL, UPGRADE};

use crate::remote::{Encoding, Version};

/// What clients of SPDY speak on top of it.
pub(crate) const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What we would have accepted.
pub(crate) const ACCEPTED_PROTOCOLS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");

/// What carries the streams.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Transport {
    /// SPDY/3.1.
    Spdy,
    /// WebSocket.
    WebSocket,
}

/// How the streams of a process are carried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum RemoteProtocol {
    /// Over SPDY.
    Spdy(Version),
    /// Over WebSocket.
    WebSocket(Version, Encoding),
}

/// How connections to ports are carried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ForwardProtocol {
    /// Over SPDY.
    Spdy,
    /// Over SPDY in messages of a WebSocket.
    Tunnel,
    /// Over channels of a WebSocket.
    WebSocket(Encoding),
}

/// A protocol by the name that clients call it.
pub(crate) struct Named<P: 'static>(pub(crate) &'static str, P);

/// Why a request gets none.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// It names no protocol, though it must.
    Missing,
    /// None of those that it names is one of these.
    NoOverlap(Vec<&'static str>),
}

/// In the order in which they are told to a client that has none of them.
const SPDY_REMOTE: &[Named<RemoteProtocol>] = &[
    Named("v4.channel.k8s.io", RemoteProtocol::Spdy(Version::V4)),
    Named("v3.channel.k8s.io", RemoteProtocol::Spdy(Version::V3)),
    Named("v2.channel.k8s.io", RemoteProtocol::Spdy(Version::V2)),
    Named("channel.k8s.io", RemoteProtocol::Spdy(Version::V1)),
];
/// The first is that of clients that name none.
const WEBSOCKET_REMOTE: &[Named<RemoteProtocol>] = &[
    Named("channel.k8s.io", RemoteProtocol::WebSocket(Version::V1, Encoding::Binary)),
    Named("base64.channel.k8s.io", RemoteProtocol::WebSocket(Version::V1, Encoding::Base64)),
    Named("v4.channel.k8s.io", RemoteProtocol::WebSocket(Version::V4, Encoding::Binary)),
    Named("v4.base64.channel.k8s.io", RemoteProtocol::WebSocket(Version::V4, Encoding::Base64)),
    Named("v5.channel.k8s.io", RemoteProtocol::WebSocket(Version::V5, Encoding::Binary)),
];
const SPDY_FORWARD: &[Named<ForwardProtocol>] = &[Named("portforward.k8s.io", ForwardProtocol::Spdy)];
/// The first is that of clients that name none.
const WEBSOCKET_FORWARD: &[Named<ForwardProtocol>] = &[
    Named("v4.channel.k8s.io", ForwardProtocol::WebSocket(Encoding::Binary)),
    Named("v4.base64.channel.k8s.io", ForwardProtocol::WebSocket(Encoding::Base64)),
    Named("SPDY/3.1+portforward.k8s.io", ForwardProtocol::Tunnel),
];

/// What the request wants the connection to become.
pub(crate) fn transport(headers: &HeaderMap) -> Option<Transport> {
    let mut tokens = list(headers, &CONNECTION);
    if !tokens.any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return None;
    }
    list(headers, &UPGRADE).find_map(|token| match token {
        token if token.eq_ignore_ascii_case("websocket") => Some(Transport::WebSocket),
        token if token.eq_ignore_ascii_case("spdy/3.1") => Some(Transport::Spdy),
        _ => None,
    })
}

/// The protocol for the streams of a process, and the name to be answered, if there is one.
pub(crate) fn remote(
    transport: Transport,
    headers: &HeaderMap,
) -> Result<(RemoteProtocol, Option<HeaderValue>), Refusal> {
    match transport {
        Transport::Spdy => choose(headers, &STREAM_PROTOCOL, SPDY_REMOTE, None),
        Transport::WebSocket => {
            choose(headers, &SEC_WEBSOCKET_PROTOCOL, WEBSOCKET_REMOTE, WEBSOCKET_REMOTE.first())
        }
    }
}

/// The protocol for connections to ports, and the name to be answered, if there is one.
pub(crate) fn forward(
    transport: Transport,
    headers: &HeaderMap,
) -> Result<(ForwardProtocol, Option<HeaderValue>), Refusal> {
    match transport {
        Transport::Spdy => choose(headers, &STREAM_PROTOCOL, SPDY_FORWARD, None),
        Transport::WebSocket => {
            choose(headers, &SEC_WEBSOCKET_PROTOCOL, WEBSOCKET_FORWARD, WEBSOCKET_FORWARD.first())
        }
    }
}

/// The first of the client's protocols that is ours, too.
fn choose<P: Copy>(
    headers: &HeaderMap,
    name: &HeaderName,
    ours: &'static [Named<P>],
    unnamed: Option<&Named<P>>,
) -> Result<(P, Option<HeaderValue>), Refusal> {
    let mut is_named = false;
    for theirs in list(headers, name) {
        is_named = true;
        if let Some(Named(name, protocol)) = ours.iter().find(|Named(name, _)| *name == theirs) {
            return Ok((*protocol, Some(HeaderValue::from_static(name))));
        }
    }
    match (is_named, unnamed) {
        (false, Some(Named(_, protocol))) => Ok((*protocol, None)),
        (false, None) => Err(Refusal::Missing),
        (true, _) => Err(Refusal::NoOverlap(ours.iter().map(|Named(name, _)| *name).collect())),
    }
}

/// The values of a header, however they are divided among lines.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn upgrades_are_recognized() {
        let of =
            |connection, upgrade| transport(&headers(&[("connection", connection), ("upgrade", upgrade)]));
        assert_eq!(of("Upgrade", "SPDY/3.1"), Some(Transport::Spdy));
        assert_eq!(of("keep-alive, upgrade", "websocket"), Some(Transport::WebSocket));
        assert_eq!(of("upgrade", "h2c"), None);
        assert_eq!(of("close", "SPDY/3.1"), None);
        assert_eq!(transport(&HeaderMap::new()), None);
    }

    #[test]
    fn the_clients_first_choice_wins() {
        let lines = headers(&[
            ("X-Stream-Protocol-Version", "v5.channel.k8s.io"),
            ("X-Stream-Protocol-Version", "v3.channel.k8s.io, v4.channel.k8s.io"),
        ]);
        let (protocol, name) = remote(Transport::Spdy, &lines).unwrap();
        assert_eq!(
            (protocol, name.unwrap().to_str().unwrap()),
            (RemoteProtocol::Spdy(Version::V3), "v3.channel.k8s.io")
        );
        assert_eq!(remote(Transport::Spdy, &HeaderMap::new()), Err(Refusal::Missing));
        let Err(Refusal::NoOverlap(names)) = forward(Transport::Spdy, &lines) else { panic!() };
        assert_eq!(names, ["portforward.k8s.io"]);
    }

    #[test]
    fn a_websocket_may_name_no_protocol() {
        let none = HeaderMap::new();
        let first = RemoteProtocol::WebSocket(Version::V1, Encoding::Binary);
        assert_eq!(remote(Transport::WebSocket, &none), Ok((first, None)));
        assert!(forward(Transport::WebSocket, &none).is_ok_and(|(_, name)| name.is_none()));
        let other = headers(&[("sec-websocket-protocol", "chat")]);
        assert!(matches!(remote(Transport::WebSocket, &other), Err(Refusal::NoOverlap(_))));
        let tunnel = headers(&[("sec-websocket-protocol", "SPDY/3.1+portforward.k8s.io")]);
        assert_eq!(forward(Transport::WebSocket, &tunnel).unwrap().0, ForwardProtocol::Tunnel);
    }
}
