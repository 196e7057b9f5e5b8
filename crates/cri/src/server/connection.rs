//! One connection: it ends when it is given up for another, and sends long answers in few system calls.

use std::io::{ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use super::clients::{Admitted, Client, Clients};

/// What the kernel may hold of what a client has not read yet, twice over: with its usual 200 KiB the daemon waits ten times for a
/// client that reads the metrics of 200 pods. No more than `net.core.wmem_max` (socket(7)).
const UNREAD: usize = 512 << 10;

/// So much of an answer is written at a time: its frames have 16 KiB at most.
const TOGETHER: usize = 64 << 10;

/// An answer that is so long, as far as it is there, often goes on: it is held back for a moment.
const LONG: usize = 4 << 10;

/// What follows it and is shorter ends an answer. `h2` writes every frame of this length or more by itself, and then flushes.
const END: usize = 256;

/// A connection, which ends when its client goes or when it is given up for another.
pub(super) struct Connection {
    stream: UnixStream,
    client: Admitted,
    given_up: Pin<Box<WaitForCancellationFutureOwned>>,
    /// What is to be written, from a position on.
    held: Vec<u8>,
    written: usize,
    /// Whether more may follow what was written last.
    goes_on: bool,
}

impl Connection {
    /// Takes it in.
    pub(super) fn new(stream: UnixStream, clients: &Clients) -> Self {
        let (client, given_up) = clients.admit();
        // With less it is only slower.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&stream, UNREAD);
        Self { stream, client, given_up, held: Vec::new(), written: 0, goes_on: false }
    }

    /// Whether it was given up, for the answer to whoever uses it.
    fn check(&mut self, context: &mut Context<'_>) -> Result<()> {
        match self.given_up.as_mut().poll(context) {
            Poll::Ready(()) => Err(ErrorKind::BrokenPipe.into()),
            Poll::Pending => Ok(()),
        }
    }

    /// Writes what is held.
    fn poll_release(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        while self.written < self.held.len() {
            let rest = &self.held[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        self.held.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl Connected for Connection {
    type ConnectInfo = Arc<Client>;

    fn connect_info(&self) -> Arc<Client> {
        self.client.client()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        if self.given_up.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(buffer)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        self.check(context)?;
        let length: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        self.goes_on = length >= if self.held.is_empty() { LONG } else { END };
        if self.held.len() + length > TOGETHER {
            ready!(self.poll_release(context))?;
        }
        if self.held.is_empty() && (length > TOGETHER || !self.goes_on) {
            return Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        }
        buffers.iter().for_each(|buffer| self.held.extend_from_slice(buffer));
        Poll::Ready(Ok(length))
    }

    /// Does nothing where more may follow, but sees to it that the task comes again: it flushes then, too.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        if std::mem::take(&mut self.goes_on) {
            context.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_release(context))?;
        self.held = Vec::new();
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_release(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// One that may be written to, and its client, which never waits.
    async fn pair() -> (Connection, std::os::unix::net::UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.writable().await.unwrap();
        (Connection::new(ours, &Clients::default()), theirs.into_std().unwrap())
    }

    /// What a client can read at once.
    fn arrived(mut client: &std::os::unix::net::UnixStream) -> usize {
        client.read(&mut vec![0; 1 << 20]).unwrap_or_default()
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn what_is_held_back_goes_with_the_end_of_the_answer_or_when_the_task_comes_again() {
        let (mut connection, client) = pair().await;
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let context = &mut Context::from_waker(&waker);
        // How much arrives of a write that is flushed, and whether the task comes again.
        let mut send = |length: usize| {
            let mut connection = Pin::new(&mut connection);
            if length > 0 {
                let written = connection.as_mut().poll_write(context, &vec![0; length]);
                assert!(matches!(written, Poll::Ready(Ok(written)) if written == length));
            }
            assert!(matches!(connection.poll_flush(context), Poll::Ready(Ok(()))));
            (arrived(&client), woken.0.swap(0, Ordering::SeqCst) > 0)
        };
        assert_eq!(send(LONG - 1), (LONG - 1, false));
        assert_eq!(send(LONG), (0, true));
        assert_eq!(send(END), (0, true));
        assert_eq!(send(END - 1), (LONG + 2 * END - 1, false));
        assert_eq!(send(LONG), (0, true));
        assert_eq!(send(TOGETHER - LONG), (0, true));
        assert_eq!(send(END), (TOGETHER, true));
        assert_eq!(send(TOGETHER + 1), (TOGETHER + END + 1, true));
        assert_eq!(send(LONG), (0, true));
        assert_eq!(send(0), (LONG, false));
        assert_eq!(connection.held.capacity(), 0);
    }

    /// Also where the client is slower than the answer.
    #[tokio::test]
    async fn everything_arrives_in_order() {
        let (mut connection, mut client) = pair().await;
        client.set_nonblocking(false).unwrap();
        let lengths = (0..3000).map(|number: usize| number * number % 20_011);
        let sent: Vec<Vec<u8>> =
            lengths.map(|length| (0..length).map(|at| (at % 251) as u8).collect()).collect();
        let expected = sent.concat();
        let reader = std::thread::spawn(move || {
            let mut received = Vec::new();
            client.read_to_end(&mut received).map(|_| received)
        });
        for bytes in sent {
            connection.write_all(&bytes).await.unwrap();
            connection.flush().await.unwrap();
        }
        assert!(!connection.held.is_empty(), "nothing was held back");
        connection.shutdown().await.unwrap();
        assert!(reader.join().unwrap().unwrap() == expected);
        drop(connection);
    }
}
