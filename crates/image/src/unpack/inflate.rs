//! From a compressed stream to a plain one, by what its first bytes say.

use std::io::{BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use crate::{Error, Kind};

/// Bytes that move at once.
pub(crate) const CHUNK: usize = 128 << 10;
/// Largest zstd window, as a power of two: 32 MiB, what `zstd -20` uses. A frame that wants more is refused.
const WINDOW_LOG: u32 = 25;

/// Finds out how `input` is compressed: gzip (any number of members), zstd (any number of frames, skippable ones too, so
/// that zstd:chunked reads as zstd), or not at all.
pub(crate) fn open(mut input: impl Read + 'static) -> Result<Box<dyn Read>, Error> {
    let start = first_bytes(&mut input)?;
    let magic: [u8; 4] = std::array::from_fn(|i| start.get(i).copied().unwrap_or(0));
    let input = BufReader::with_capacity(CHUNK, Cursor::new(start).chain(input));
    Ok(match magic {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(input)),
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)
                .map_err(|e| Error::corrupt(format!("zstd cannot be started: {e}")))?;
            decoder.window_log_max(WINDOW_LOG).map_err(|e| Error::corrupt(format!("zstd window: {e}")))?;
            Box::new(decoder)
        }
        [0xfd, b'7', b'z', b'X'] => return Err(unsupported("xz")),
        [b'B', b'Z', b'h', _] => return Err(unsupported("bzip2")),
        _ => Box::new(input),
    })
}

/// Memory that the first frame of a zstd stream asks for, by its first bytes (RFC 8878, 3.1.1.1); 0 for anything else.
pub(crate) fn zstd_window(start: &[u8]) -> u64 {
    let [0x28, 0xb5, 0x2f, 0xfd, descriptor, rest @ ..] = start else { return 0 };
    if descriptor & 0x20 == 0 {
        let Some(window) = rest.first() else { return 0 };
        let base = 1_u64 << (10 + u32::from(window >> 3));
        return base + base / 8 * u64::from(window & 7);
    }
    // A single segment: the whole content is the window.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let (length, least) = [(1, 0), (2, 256), (4, 0), (8, 0)][usize::from(descriptor >> 6)];
    let Some(size) = rest.get(dictionary..dictionary + length) else { return 0 };
    size.iter().rev().fold(0, |size, byte| size << 8 | u64::from(*byte)).saturating_add(least)
}

/// The error of a reader that [`open`] made, in words.
pub(crate) fn explain(error: &std::io::Error) -> Error {
    Error::corrupt(format!("the layer cannot be decompressed: {error}"))
}

/// The first four bytes, or fewer where there are no more: a pipe may hand them out one by one.
fn first_bytes(input: &mut impl Read) -> Result<Vec<u8>, Error> {
    let mut start = Vec::with_capacity(4);
    input.take(4).read_to_end(&mut start).map_err(|e| Error::io("read(layer)", &e))?;
    Ok(start)
}

fn unsupported(what: &str) -> Error {
    Error::new(
        Kind::Unsupported,
        format!("layers compressed with {what} are not supported: use gzip or zstd"),
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// What libzstd itself says of frames that it has made.
    #[test]
    fn windows_of_zstd() {
        for (level, pledged) in
            [(3, None), (3, Some(100)), (3, Some(300)), (3, Some(70_000)), (19, None), (19, Some(1 << 24))]
        {
            let mut encoder = zstd::Encoder::new(Vec::new(), level).unwrap();
            encoder.set_pledged_src_size(pledged).unwrap();
            let size = usize::try_from(pledged.unwrap_or(1_000_000)).unwrap();
            encoder.write_all(&vec![7; size]).unwrap();
            let frame = encoder.finish().unwrap();
            let expected = match (level, pledged) {
                (_, Some(size)) if size <= 1 << 17 => size,
                (3, _) => 2 << 20,
                _ => 8 << 20,
            };
            assert_eq!(zstd_window(&frame), expected, "{level} {pledged:?}");
        }
        for other in [
            &b""[..],
            b"\x28\xb5\x2f\xfd",
            b"\x28\xb5\x2f\xfd\x00",
            b"\x28\xb5\x2f\xfd\xe3\x00",
            b"\x1f\x8b\x08\x00\x00\x00",
        ] {
            assert_eq!(zstd_window(other), 0, "{other:?}");
        }
        assert_eq!(zstd_window(b"\x28\xb5\x2f\xfd\x00\xff"), 15 << 38);
    }
}
