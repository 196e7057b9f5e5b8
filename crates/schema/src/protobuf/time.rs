//! Times, which protobuf carries as seconds and nanoseconds since 1970 and JSON as text.

use super::unknown;
use super::wire::{Reader, Value as Wire, malformed};
use crate::{Error, time};

/// A `Time`: whole seconds. Nothing if it is not set, which Go encodes as an empty message.
pub(super) fn seconds(message: &[u8]) -> Result<Option<String>, Error> {
    Ok(timestamp(message)?.and_then(|(seconds, _)| time::of(seconds, None)))
}

/// A `MicroTime`: six digits of a second.
pub(super) fn micros(message: &[u8]) -> Result<Option<String>, Error> {
    Ok(timestamp(message)?.and_then(|(seconds, nanos)| time::of(seconds, Some(nanos / 1000))))
}

fn timestamp(message: &[u8]) -> Result<Option<(i64, u32)>, Error> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in Reader::new(message) {
        match field? {
            (1, Wire::Varint(value)) => seconds = value as i64,
            (2, Wire::Varint(value)) => nanos = value as i64,
            (number, value) => unknown(number, value, "Timestamp")?,
        }
    }
    let out_of_range =
        || malformed(format!("the time {seconds} s and {nanos} ns after 1970 is out of range"));
    let nanos = u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000).ok_or_else(out_of_range)?;
    // 0001-01-01 to 9999-12-31, as far as a Timestamp may reach.
    if !(-62_135_596_800..=253_402_300_799).contains(&seconds) {
        return Err(out_of_range());
    }
    Ok((!message.is_empty()).then_some((seconds, nanos)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unset_time_is_absent() {
        assert_eq!(seconds(b"").unwrap(), None);
        assert_eq!(micros(b"").unwrap(), None);
        assert_eq!(micros(b"\x08\x80\x92\xb8\xc3\x98\xfe\xff\xff\xff\x01\x10\x00").unwrap(), None);
        assert_eq!(micros(b"\x08\x00\x10\xe8\x07").unwrap().as_deref(), Some("1970-01-01T00:00:00.000001Z"));
        assert!(seconds(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f").is_err());
        assert!(seconds(b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").is_err());
    }
}
