//! A client of SPDY/3.1, as Go's is: it compresses its headers, waits for replies and answers nothing.

use std::collections::BTreeMap;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes 0–1422 are the dictionary; a test of the crate compares its checksum with the one of the draft.
const DICTIONARY: &[u8] = include!("dictionary.in");

/// What the server sends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Frame {
    Reply(u32),
    Data(u32, Vec<u8>, bool),
    Reset(u32, u32),
    Ping(u32),
    GoAway,
}

/// A connection that was upgraded.
pub(crate) struct Spdy<S> {
    pub(crate) socket: S,
    deflate: Compress,
    inflate: Decompress,
    inflate_begun: bool,
    next: u32,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Spdy<S> {
    pub(crate) fn new(socket: S) -> Self {
        let mut deflate = Compress::new(Compression::best(), true);
        deflate.set_dictionary(DICTIONARY).unwrap();
        Self { socket, deflate, inflate: Decompress::new(true), inflate_begun: false, next: 1 }
    }

    /// Opens a stream, without waiting for the reply.
    pub(crate) async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let stream = self.next;
        self.next += 2;
        self.open_as(stream, headers).await;
        stream
    }

    /// The same with a number of the test's choice.
    pub(crate) async fn open_as(&mut self, stream: u32, headers: &[(&str, &str)]) {
        let mut plain = u32::try_from(headers.len()).unwrap().to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            plain.extend(text.as_bytes());
        }
        let mut block = Vec::with_capacity(plain.len() * 2 + 1024);
        self.deflate.compress_vec(&plain, &mut block, FlushCompress::Sync).unwrap();
        let payload = [&stream.to_be_bytes()[..], &[0; 6], &block].concat();
        self.control(1, &payload).await;
    }

    pub(crate) async fn control(&mut self, kind: u16, payload: &[u8]) {
        let mut frame = vec![0x80, 3];
        frame.extend(kind.to_be_bytes());
        frame.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        frame.extend(payload);
        self.socket.write_all(&frame).await.unwrap();
        self.socket.flush().await.unwrap();
    }

    /// Sends data; fails when the server has closed the connection.
    pub(crate) async fn data(&mut self, stream: u32, bytes: &[u8], fin: bool) -> std::io::Result<()> {
        let mut frame = stream.to_be_bytes().to_vec();
        frame.extend((u32::from(fin) << 24 | u32::try_from(bytes.len()).unwrap()).to_be_bytes());
        frame.extend(bytes);
        self.socket.write_all(&frame).await?;
        self.socket.flush().await
    }

    /// The next frame, or none at the end of the connection.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        let mut header = [0; 8];
        self.socket.read_exact(&mut header).await.ok()?;
        let [a, b, c, d, flags, l1, l2, l3] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, l1, l2, l3]) as usize];
        self.socket.read_exact(&mut payload).await.ok()?;
        if a & 0x80 == 0 {
            return Some(Frame::Data(u32::from_be_bytes([a, b, c, d]), payload, flags & 1 != 0));
        }
        assert_eq!((a, b), (0x80, 3));
        let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        Some(match u16::from_be_bytes([c, d]) {
            2 => {
                assert_eq!(self.inflate(&payload[4..]), [0; 4]);
                Frame::Reply(number(0))
            }
            3 => Frame::Reset(number(0), number(4)),
            6 => Frame::Ping(number(0)),
            7 => Frame::GoAway,
            other => panic!("a frame of kind {other}"),
        })
    }

    /// As zlib does it, on the whole stream.
    fn inflate(&mut self, mut block: &[u8]) -> Vec<u8> {
        let mut plain = Vec::with_capacity(256);
        if !self.inflate_begun {
            self.inflate_begun = true;
            let error = self.inflate.decompress_vec(block, &mut plain, FlushDecompress::Sync).unwrap_err();
            assert!(error.needs_dictionary().is_some());
            self.inflate.set_dictionary(DICTIONARY).unwrap();
            block = &block[6..];
        }
        self.inflate.decompress_vec(block, &mut plain, FlushDecompress::Sync).unwrap();
        plain
    }

    /// Everything until the connection ends: the data of each stream, and those that have ended.
    pub(crate) async fn rest(&mut self) -> BTreeMap<u32, (Vec<u8>, bool)> {
        let mut streams = BTreeMap::<u32, (Vec<u8>, bool)>::new();
        while let Some(frame) = self.frame().await {
            if let Frame::Data(stream, bytes, fin) = frame {
                let (all, ended) = streams.entry(stream).or_default();
                assert!(!*ended, "data after the end of stream {stream}");
                all.extend(bytes);
                *ended = fin;
            }
        }
        streams
    }
}
