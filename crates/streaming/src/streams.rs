//! The client's side of a session, as the backend sees it.

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::Size;
use crate::remote::Channel;

/// Chunks of at most 64 KiB that wait in each direction.
pub(crate) const CHUNKS: usize = 4;

/// What a client sends and what it gets. Every part waits for the other side; nothing gathers.
#[derive(Debug)]
pub struct Streams {
    /// What goes to the process, if the client wants to send anything.
    pub stdin: Option<Input>,
    /// What comes from the process, if the client wants it.
    pub stdout: Option<Output>,
    /// The same for its errors.
    pub stderr: Option<Output>,
    /// The size of the client's terminal.
    pub sizes: Sizes,
    /// Whether the client is still there.
    pub client: Client,
}

/// Bytes from the client.
#[derive(Debug)]
pub struct Input(mpsc::Receiver<Bytes>);

/// Bytes for the client. Dropping it says that there will be no more.
#[derive(Debug)]
pub struct Output {
    channel: Channel,
    sender: mpsc::Sender<(Channel, Bytes)>,
}

/// The sizes of the client's terminal; of several only the last.
#[derive(Clone, Debug)]
pub struct Sizes(watch::Receiver<Option<Size>>);

/// The client itself.
#[derive(Clone, Debug)]
pub struct Client(watch::Receiver<bool>);

/// The client is gone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Gone;

/// The other ends of [`Streams`].
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) stdin: Option<mpsc::Sender<Bytes>>,
    pub(crate) output: mpsc::Receiver<(Channel, Bytes)>,
    pub(crate) sizes: watch::Sender<Option<Size>>,
    pub(crate) gone: watch::Sender<bool>,
}

/// Both ends of a session with these streams.
pub(crate) fn streams(wanted: crate::Wanted) -> (Streams, Ends) {
    let (stdin_sender, stdin) = mpsc::channel(CHUNKS);
    let (sender, output) = mpsc::channel(CHUNKS);
    let (sizes_sender, sizes) = watch::channel(None);
    let (gone, client) = watch::channel(false);
    let of = |is_wanted: bool, channel| is_wanted.then(|| Output { channel, sender: sender.clone() });
    let streams = Streams {
        stdin: wanted.stdin.then_some(Input(stdin)),
        stdout: of(wanted.stdout, Channel::Stdout),
        stderr: of(wanted.stderr, Channel::Stderr),
        sizes: Sizes(sizes),
        client: Client(client),
    };
    let stdin = wanted.stdin.then_some(stdin_sender);
    (streams, Ends { stdin, output, sizes: sizes_sender, gone })
}

impl Input {
    /// The next bytes, never none of them; nothing when the client has closed its side. Where the client vanished instead
    /// this waits: [`Client::gone`] tells.
    pub async fn read(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }
}

impl Output {
    /// Sends bytes; waits while the client does not read. At most 64 KiB at a time.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn write(&self, bytes: Bytes) -> Result<(), Gone> {
        self.sender.send((self.channel, bytes)).await.map_err(|_| Gone)
    }
}

impl Sizes {
    /// The size that was told last and not asked for yet; waits for one.
    pub async fn next(&mut self) -> Size {
        loop {
            // After the end of the session nobody waits here any more.
            if self.0.changed().await.is_err() {
                return std::future::pending().await;
            }
            if let Some(size) = *self.0.borrow_and_update() {
                return size;
            }
        }
    }
}

impl Client {
    /// Returns when the client is gone: whatever is done for it is in vain from now on.
    pub async fn gone(&mut self) {
        let _ = self.0.wait_for(|is_gone| *is_gone).await;
    }
}
