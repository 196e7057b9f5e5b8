//! The socket, and what waits to be sent or looked at.

use std::pin::Pin;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until, timeout};

use super::Patience;
use crate::server::Watch;

/// How much is read at once.
const READ: usize = 32 << 10;
/// With so much to be sent, nothing more is taken from the backend.
const FULL: usize = 64 << 10;
/// With so much to be sent, nothing more is taken from the client: it makes us answer and does not listen.
const OVERFULL: usize = 128 << 10;

/// A connection.
pub(super) struct Wire<S> {
    reader: ReadHalf<S>,
    writer: WriteHalf<S>,
    /// What came and was not looked at yet.
    pub(super) input: BytesMut,
    output: BytesMut,
    /// Ready when the connection is, though nobody reads or writes.
    broken: Pin<Box<dyn Future<Output = ()> + Send>>,
    last_moved: Instant,
    /// Whether what waits to be sent says nothing.
    is_nudge: bool,
}

/// The connection is over: the client closed it, or an error did.
#[derive(Debug)]
pub(super) struct Over;

impl<S: AsyncRead + AsyncWrite> Wire<S> {
    pub(super) fn new(socket: S, watch: Watch) -> Self {
        let (reader, writer) = tokio::io::split(socket);
        let (input, output) = (BytesMut::new(), BytesMut::new());
        let broken: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(watch.broken());
        Self { reader, writer, input, output, broken, last_moved: Instant::now(), is_nudge: false }
    }

    /// Takes over what a protocol wants to send.
    pub(super) fn send(&mut self, bytes: &mut BytesMut) {
        self.is_nudge &= bytes.is_empty();
        if self.output.is_empty() {
            std::mem::swap(&mut self.output, bytes);
        } else {
            self.output.extend_from_slice(bytes);
            bytes.clear();
        }
    }

    /// Takes over what says nothing: it is no sign of life.
    pub(super) fn nudge(&mut self, bytes: &mut BytesMut) {
        self.is_nudge = self.output.is_empty();
        self.output.unsplit(bytes.split());
    }

    /// Whether the backend has to wait.
    pub(super) fn is_full(&self) -> bool {
        self.output.len() >= FULL
    }

    /// Whether everything was sent.
    pub(super) fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    /// Reads or writes something; over if nothing can be for so long. May be dropped at any time, and nothing is lost.
    pub(super) async fn move_bytes(&mut self, may_read: bool, idle: Duration) -> Result<(), Over> {
        let may_read = may_read && self.output.len() < OVERFULL;
        self.input.reserve(READ);
        tokio::select! {
            read = self.reader.read_buf(&mut self.input), if may_read => match read {
                Ok(0) | Err(_) => return Err(Over),
                Ok(_) => {}
            },
            written = self.writer.write_buf(&mut self.output), if !self.output.is_empty() => match written {
                Ok(0) | Err(_) => return Err(Over),
                Ok(_) if self.is_nudge => return Ok(()),
                Ok(_) => {}
            },
            () = &mut self.broken => return Err(Over),
            () = sleep_until(self.last_moved + idle) => return Err(Over),
        }
        self.last_moved = Instant::now();
        Ok(())
    }

    /// Sends what is left, closes our side and waits for the client to close its own: closing with bytes unread would
    /// take from the client what is still on its way to it. A client that is slow to read shows by pings that it is there.
    pub(super) async fn close(mut self, patience: Patience) {
        let farewell = async {
            timeout(patience.farewell, self.writer.write_all_buf(&mut self.output)).await??;
            timeout(patience.farewell, self.writer.shutdown()).await??;
            loop {
                self.input.clear();
                self.input.reserve(READ);
                if timeout(patience.farewell, self.reader.read_buf(&mut self.input)).await?? == 0 {
                    return std::io::Result::Ok(());
                }
            }
        };
        let _ = timeout(patience.idle, farewell).await;
    }
}
