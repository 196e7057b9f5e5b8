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
