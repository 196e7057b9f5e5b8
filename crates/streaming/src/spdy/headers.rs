//! Header blocks: names and values, compressed over the whole life of a connection.

use bytes::{BufMut, BytesMut};
use flate2::{Decompress, FlushDecompress, Status};

use super::dictionary::{CHECKSUM, DICTIONARY};
use crate::Malformed;

/// The most bytes of one header block once it is inflated. What clients send is below one hundred.
const BLOCK: usize = 64 << 10;
/// The most headers of one block.
const COUNT: usize = 1000;
/// Bytes before the first compressed block: two of zlib's, four with the checksum of the dictionary.
const ZLIB_HEADER: usize = 6;

/// The headers of a stream.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of a header; names do not differ by case. Empty is none.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    fn parse(mut block: &[u8]) -> Result<Self, Malformed> {
        let count = take_length(&mut block)?;
        if count > COUNT {
            return Err(Malformed("a header block has too many headers"));
        }
        let headers = (0..count)
            .map(|_| Ok((take_text(&mut block)?, take_text(&mut block)?)))
            .collect::<Result<_, Malformed>>()?;
        match block {
            [] => Ok(Self(headers)),
            _ => Err(Malformed("a header block is longer than its headers")),
        }
    }
}

/// Reads header blocks, each of which may refer to all before it.
#[derive(Debug)]
pub(super) struct Inflater {
    inflate: Decompress,
    begun: bool,
}

impl Inflater {
    pub(super) fn new() -> Self {
        // Raw, because zlib's own header is read here: it always names the same dictionary.
        Self { inflate: Decompress::new(false), begun: false }
    }

    /// The headers of the next block.
    pub(super) fn inflate(&mut self, mut compressed: &[u8]) -> Result<Headers, Malformed> {
        if !self.begun {
            compressed = self.begin(compressed)?;
        }
        let mut block = Vec::with_capacity(256);
        loop {
            let before = self.inflate.total_in();
            let result = self.inflate.decompress_vec(compressed, &mut block, FlushDecompress::Sync);
            let used = usize::try_from(self.inflate.total_in() - before).unwrap_or(compressed.len());
            compressed = compressed.get(used..).unwrap_or_default();
            match result {
                // A buffer that is full, or nothing left to do.
                Ok(Status::Ok | Status::BufError) => {}
                Ok(Status::StreamEnd) => return Err(Malformed("the header compression was ended")),
                Err(_) => return Err(Malformed("a header block cannot be inflated")),
            }
            if block.len() > BLOCK {
                return Err(Malformed("a header block is too long"));
            }
            if block.len() < block.capacity() {
                break;
            }
            block.reserve(block.capacity());
        }
        if !compressed.is_empty() {
            return Err(Malformed("a header block cannot be inflated"));
        }
        Headers::parse(&block)
    }

    fn begin<'a>(&mut self, compressed: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let Some((&[method, flags, a, b, c, d], rest)) = compressed.split_first_chunk::<ZLIB_HEADER>() else {
            return Err(Malformed("the header compression does not begin with a header of zlib"));
        };
        let is_deflate = method & 0x0f == 8 && u16::from_be_bytes([method, flags]).is_multiple_of(31);
        let has_dictionary = flags & 0x20 != 0 && u32::from_be_bytes([a, b, c, d]) == CHECKSUM;
        if !is_deflate || !has_dictionary {
            return Err(Malformed("the header compression does not use the dictionary of SPDY/3"));
        }
        self.inflate
            .set_dictionary(DICTIONARY)
            .map_err(|_| Malformed("the dictionary of SPDY/3 cannot be used"))?;
        self.begun = true;
        Ok(rest)
    }
}

/// Writes header blocks without compressing them: a server has nothing to say in its headers, and a compressor would
/// take 256 KiB for each connection.
#[derive(Debug, Default)]
pub(super) struct Deflater {
    begun: bool,
}

impl Deflater {
    /// Appends a block without headers.
    pub(super) fn empty_block(&mut self, out: &mut BytesMut) {
        if !self.begun {
            // Deflate with a window of 32 KiB and a dictionary; as one number a multiple of 31.
            out.put_slice(&[0x78, 0x20]);
            out.put_u32(CHECKSUM);
            self.begun = true;
        }
        // One stored block of four bytes: not the last one, padded to a byte, length, its complement, the bytes.
        out.put_slice(&[0, 4, 0, !4, !0, 0, 0, 0, 0]);
        // And an empty one, as zlib ends what it flushes: Go's reader passes nothing on before it has seen that.
        out.put_slice(&[0, 0, 0, !0, !0]);
    }
}

fn take_length(block: &mut &[u8]) -> Result<usize, Malformed> {
    let (length, rest) = block.split_first_chunk().ok_or(Malformed("a header block is cut off"))?;
    *block = rest;
    usize::try_from(u32::from_be_bytes(*length)).map_err(|_| Malformed("a header is too long"))
}

fn take_text(block: &mut &[u8]) -> Result<String, Malformed> {
    let length = take_length(block)?;
    let (text, rest) = block.split_at_checked(length).ok_or(Malformed("a header block is cut off"))?;
    *block = rest;
    String::from_utf8(text.to_vec()).map_err(|_| Malformed("a header is not text"))
}

#[cfg(test)]
pub(crate) mod tests {
    use flate2::{Compress, Compression, FlushCompress};

    use super::*;

    /// A client's side, as zlib does it.
    pub(crate) struct Writer(Compress);

    impl Writer {
        pub(crate) fn new() -> Self {
            let mut compress = Compress::new(Compression::best(), true);
            assert_eq!(compress.set_dictionary(DICTIONARY).unwrap(), CHECKSUM);
            Self(compress)
        }

        pub(crate) fn block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
            let mut plain = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
            for text in headers.iter().flat_map(|(name, value)| [name, value]) {
                plain.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                plain.extend(text.as_bytes());
            }
            self.raw(&plain)
        }

        pub(crate) fn raw(&mut self, plain: &[u8]) -> Vec<u8> {
            let mut block = Vec::with_capacity(plain.len() * 2 + 1024);
            self.0.compress_vec(plain, &mut block, FlushCompress::Sync).unwrap();
            block
        }
    }

    #[test]
    fn blocks_refer_to_those_before() {
        let (mut writer, mut reader) = (Writer::new(), Inflater::new());
        let mut lengths = Vec::new();
        for number in 0..50 {
            let id = number.to_string();
            let block = writer.block(&[("streamtype", "data"), ("port", "8080"), ("requestid", &id)]);
            lengths.push(block.len());
            let headers = reader.inflate(&block).unwrap();
            assert_eq!(headers.value("streamType"), Some("data"));
            assert_eq!(headers.value("requestID"), Some(id.as_str()));
            assert_eq!(headers.value("host"), None);
        }
        assert!(lengths[1] < lengths[0], "{lengths:?}");
    }

    #[test]
    fn what_we_write_is_a_stream_of_zlib() {
        let (mut writer, mut inflate) = (Deflater::default(), Decompress::new(true));
        for round in 0..3 {
            let mut block = BytesMut::new();
            writer.empty_block(&mut block);
            let mut plain = Vec::with_capacity(64);
            let mut used = 0;
            if round == 0 {
                let error = inflate.decompress_vec(&block, &mut plain, FlushDecompress::Sync).unwrap_err();
                assert_eq!(error.needs_dictionary(), Some(CHECKSUM));
                assert_eq!(inflate.set_dictionary(DICTIONARY).unwrap(), CHECKSUM);
                used = ZLIB_HEADER;
            }
            inflate.decompress_vec(&block[used..], &mut plain, FlushDecompress::Sync).unwrap();
            assert_eq!(plain, [0; 4]);
        }
    }

    #[test]
    fn ours_can_be_read_by_ourselves() {
        let (mut writer, mut reader) = (Deflater::default(), Inflater::new());
        for _ in 0..3 {
            let mut block = BytesMut::new();
            writer.empty_block(&mut block);
            assert_eq!(reader.inflate(&block).unwrap(), Headers::default());
        }
    }

    #[test]
    fn a_small_block_cannot_become_a_large_one() {
        let mut writer = Writer::new();
        let mut plain = 1_u32.to_be_bytes().to_vec();
        plain.extend(u32::MAX.to_be_bytes());
        plain.extend(vec![b'a'; 8 << 20]);
        let block = writer.raw(&plain);
        assert!(block.len() < 64 << 10);
        assert_eq!(Inflater::new().inflate(&block).unwrap_err().0, "a header block is too long");
    }

    #[test]
    fn nonsense_is_refused() {
        let one = |plain: &[u8]| Inflater::new().inflate(&Writer::new().raw(plain)).unwrap_err().0;
        assert_eq!(one(&[0, 0]), "a header block is cut off");
        assert_eq!(one(&[0, 0, 0, 1]), "a header block is cut off");
        assert_eq!(one(&[0, 0, 0, 0, 0]), "a header block is longer than its headers");
        assert_eq!(one(&[0, 1, 0, 0]), "a header block has too many headers");
        assert_eq!(one(&[0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0, 0, 0, 0]), "a header is not text");
        assert!(Inflater::new().inflate(&[]).is_err());
        assert!(Inflater::new().inflate(&[0x78, 0x9c, 0, 0, 0, 0, 0]).is_err());
    }
}
