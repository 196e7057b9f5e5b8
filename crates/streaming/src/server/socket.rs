//! A connection that can be watched by one while another reads and writes.

use std::io::{Error, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// After how long without a word the kernel asks whether the client's host is still there, and how often.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(15), 4);

/// What is read from and written to.
#[derive(Debug)]
pub(super) struct Socket(Arc<TcpStream>);

/// What tells that it is broken, also while nobody reads: of a client that was killed with more to send than there is room
/// for, nothing else can be seen.
#[derive(Clone, Debug)]
pub(crate) struct Watch(Arc<TcpStream>);

/// Both sides of a connection.
pub(super) fn socket(stream: TcpStream) -> (Socket, Watch) {
    // Keystrokes. None of these is worth a refusal.
    let _ = stream.set_nodelay(true);
    let (idle, interval, count) = KEEPALIVE;
    let _ = sockopt::set_tcp_keepidle(&stream, idle);
    let _ = sockopt::set_tcp_keepintvl(&stream, interval);
    let _ = sockopt::set_tcp_keepcnt(&stream, count);
    let _ = sockopt::set_socket_keepalive(&stream, true);
    let stream = Arc::new(stream);
    (Socket(stream.clone()), Watch(stream))
}

impl Watch {
    /// Returns when the connection was reset, or nobody has answered for too long.
    pub(crate) async fn broken(self) {
        let _ = self.0.ready(Interest::ERROR).await;
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            match self.0.try_read(buffer.initialize_unfilled()) {
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if is_empty(&error) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match self.0.try_write(bytes) {
                Err(error) if is_empty(&error) => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(rustix::net::shutdown(&self.0, rustix::net::Shutdown::Write)?))
    }
}

/// Not ready after all.
fn is_empty(error: &Error) -> bool {
    error.kind() == std::io::ErrorKind::WouldBlock
}
