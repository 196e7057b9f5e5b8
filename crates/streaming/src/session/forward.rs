//! Connections to ports and their client.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::{AbortHandle, JoinSet};

use super::wire::{Over, Wire};
use super::{NUDGE, Patience};
use crate::forward::{Event, Forward};
use crate::server::Watch;
use crate::streams::CHUNKS;

/// How much is read from a port at once.
const READ: usize = 32 << 10;

/// Serves one session to its end: `connect` makes the connections.
pub(crate) async fn forward<S, F>(
    socket: S,
    watch: Watch,
    protocol: Box<dyn Forward>,
    patience: Patience,
    connect: impl Fn(u16) -> F + Send + Sync + 'static,
) where
    S: AsyncRead + AsyncWrite,
    F: Future<Output = Result<TcpStream, String>> + Send + 'static,
{
    let (sender, output) = mpsc::channel(CHUNKS);
    let mut session = Session {
        wire: Wire::new(socket, watch),
        protocol,
        connections: BTreeMap::new(),
        tasks: JoinSet::new(),
        sender,
        stuck: None,
        connect: Arc::new(connect),
    };
    let Over = session.attend(output, patience).await;
    session.protocol.finish();
    session.wire.send(session.protocol.output());
    // With the session its tasks end, and with them the connections to the pod.
    session.wire.close(patience).await;
}

struct Session<S, C> {
    wire: Wire<S>,
    protocol: Box<dyn Forward>,
    connections: BTreeMap<u32, Connection>,
    tasks: JoinSet<()>,
    sender: mpsc::Sender<(u32, Output)>,
    /// Input that a connection does not take for now. Nothing more is read meanwhile.
    stuck: Option<(mpsc::Sender<Bytes>, Bytes)>,
    connect: Arc<C>,
}

struct Connection {
    /// Until the client sends nothing more.
    input: Option<mpsc::Sender<Bytes>>,
    task: AbortHandle,
}

/// What a connection has to say.
enum Output {
    Data(Bytes),
    End,
    Failed(String),
    /// It is over in both directions.
    Done,
}

impl<S, C, F> Session<S, C>
where
    S: AsyncRead + AsyncWrite,
    C: Fn(u16) -> F + Send + Sync + 'static,
    F: Future<Output = Result<TcpStream, String>> + Send + 'static,
{
    async fn attend(&mut self, mut output: mpsc::Receiver<(u32, Output)>, patience: Patience) -> Over {
        loop {
            if let Err(over) = self.take_events() {
                return over;
            }
            let expiry = self.protocol.expire(Instant::now()).map(tokio::time::Instant::from_std);
            self.wire.send(self.protocol.output());
            tokio::select! {
                moved = self.wire.move_bytes(self.stuck.is_none(), patience.idle) => match moved {
                    Ok(()) => {}
                    Err(over) => return over,
                },
                Some((number, output)) = output.recv(), if !self.wire.is_full() => self.output(number, output),
                () = super::remote::deliver(&mut self.stuck), if self.stuck.is_some() => {}
                () = tokio::time::sleep(NUDGE), if self.stuck.is_some() && self.wire.is_flushed() => {
                    self.protocol.nudge();
                    self.wire.nudge(self.protocol.output());
                }
                Some(_) = self.tasks.join_next() => {}
                () = tokio::time::sleep_until(expiry.unwrap_or_else(tokio::time::Instant::now)),
                    if expiry.is_some() => {}
            }
        }
    }

    fn take_events(&mut self) -> Result<(), Over> {
        while self.stuck.is_none() {
            match self.protocol.poll(&mut self.wire.input, Instant::now()) {
                Ok(Some(Event::Opened(number, port))) => self.open(number, port),
                Ok(Some(Event::Data(number, bytes))) => self.input(number, bytes),
                Ok(Some(Event::End(number))) => {
                    if let Some(connection) = self.connections.get_mut(&number) {
                        connection.input = None;
                    }
                }
                Ok(Some(Event::Reset(number))) => {
                    if let Some(connection) = self.connections.remove(&number) {
                        connection.task.abort();
                    }
                }
                Ok(Some(Event::Closed)) => return Err(Over),
                Ok(None) => break,
                Err(crate::Malformed(what)) => {
                    tracing::debug!(what, "a client broke the protocol of its session");
                    return Err(Over);
                }
            }
        }
        self.wire.send(self.protocol.output());
        Ok(())
    }

    fn open(&mut self, number: u32, port: u16) {
        let (sender, input) = mpsc::channel(CHUNKS);
        let (output, connect) = (self.sender.clone(), self.connect.clone());
        let task = self.tasks.spawn(async move {
            // Nobody hears it when the session is over.
            match connect(port).await {
                Ok(stream) => carry(stream, input, &output, number).await,
                Err(reason) => drop(output.send((number, Output::Failed(reason))).await),
            }
            let _ = output.send((number, Output::Done)).await;
        });
        self.connections.insert(number, Connection { input: Some(sender), task });
    }

    fn input(&mut self, number: u32, bytes: Bytes) {
        let connection = self.connections.get_mut(&number);
        let Some(input) = connection.and_then(|connection| connection.input.as_ref()) else { return };
        match input.try_send(bytes) {
            // One that takes nothing any more says so itself.
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(bytes)) => self.stuck = Some((input.clone(), bytes)),
        }
    }

    fn output(&mut self, number: u32, output: Output) {
        // Of a connection that the client has reset, something may still be on its way.
        if !self.connections.contains_key(&number) {
            return;
        }
        match output {
            Output::Data(bytes) => self.protocol.write(number, &bytes),
            Output::End => self.protocol.end(number),
            Output::Failed(reason) => self.protocol.fail(number, &reason),
            Output::Done => drop(self.connections.remove(&number)),
        }
    }
}

/// Moves bytes between a port and the session, until both directions have ended.
async fn carry(
    stream: TcpStream,
    mut input: mpsc::Receiver<Bytes>,
    output: &mpsc::Sender<(u32, Output)>,
    number: u32,
) {
    let (mut reader, mut writer) = stream.into_split();
    let upwards = async {
        while let Some(mut bytes) = input.recv().await {
            if writer.write_all_buf(&mut bytes).await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    };
    let downwards = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(READ);
            match reader.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            if output.send((number, Output::Data(buffer.split().freeze()))).await.is_err() {
                return;
            }
        }
        let _ = output.send((number, Output::End)).await;
    };
    tokio::join!(upwards, downwards);
}
