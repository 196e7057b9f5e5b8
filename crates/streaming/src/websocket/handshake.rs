//! What a request must say to become a WebSocket.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use hyper::header::{SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION};

/// Section 1.3 of RFC 6455.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Why a request cannot become a WebSocket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// There is no key of 16 bytes.
    Key,
    /// Another version than 13 is asked for.
    Version,
}

/// The value of `Sec-WebSocket-Accept` for a request with these headers.
pub(crate) fn accept(headers: &HeaderMap) -> Result<String, Refusal> {
    let version = headers.get(SEC_WEBSOCKET_VERSION).and_then(|version| version.to_str().ok());
    if version.map(str::trim) != Some("13") {
        return Err(Refusal::Version);
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or(Refusal::Key)?;
    let key = key.as_bytes().trim_ascii();
    match STANDARD.decode(key) {
        Ok(bytes) if bytes.len() == 16 => {
            Ok(STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat())))
        }
        _ => Err(Refusal::Key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn as_in_the_rfc() {
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let version = ("sec-websocket-version", "13");
        assert_eq!(accept(&headers(&[key, version])).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(accept(&headers(&[version])), Err(Refusal::Key));
        assert_eq!(accept(&headers(&[version, ("sec-websocket-key", "c2hvcnQ=")])), Err(Refusal::Key));
        assert_eq!(accept(&headers(&[key])), Err(Refusal::Version));
        assert_eq!(accept(&headers(&[key, ("sec-websocket-version", "8")])), Err(Refusal::Version));
    }
}
