//! A connection to a plugin: requests in both directions over one stream.
//!
//! Two tasks read and write. Neither waits for anybody but the plugin, and each ends when the connection is closed: by the plugin, by
//! [`Connection::close`], or because the plugin broke the protocol. What a plugin can have held for it is bounded: one message for each channel,
//! four of its requests, and eight messages to it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::frame::{Channel, Decoder, Message, Type};
use crate::ttrpc::{PLUGIN, RUNTIME, Request, Response, Status, decode};

/// The longest request, as the other side takes it.
pub(crate) const LONGEST: usize = 4 << 20;
/// The longest message that is taken of a plugin. Decoded it takes up to fifty times that, so this is less than what the other side would
/// take of us. A thousand updates have a fifth of it.
const TAKEN: u32 = 512 << 10;
/// The longest message of a plugin that has not registered.
const TAKEN_BEFORE: u32 = 16 << 10;
/// How much is read at once.
const READ: usize = 16 << 10;
/// Messages that wait to be written.
const OUTGOING: usize = 8;
/// Requests of the plugin that wait to be looked at.
const INCOMING: usize = 4;
/// What each message costs that makes no sense: its sender has to wait.
const PENALTY: Duration = Duration::from_millis(10);

/// One end of it; a clone is another name of the same.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
}

/// A request of the plugin, to be answered by [`Connection::answer`].
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) payload: Bytes,
    stream: u32,
}

/// What a plugin may ask.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Method {
    RegisterPlugin,
    UpdateContainers,
}

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The connection is closed, which has been logged.
    Closed,
    /// The plugin has answered with an error.
    Refused(Status),
    /// It has so many bytes, more than the other side takes.
    TooLong(usize),
}

impl Failure {
    /// In words.
    pub(crate) fn why(self, connection: &Connection, method: &str) -> String {
        match self {
            Self::Closed => connection.why().to_owned(),
            Self::Refused(status) => format!("it answered {method} with an error: {}", status.message),
            Self::TooLong(length) => format!("{method} has {length} bytes, and it takes {LONGEST}"),
        }
    }
}

#[derive(Debug)]
struct Shared {
    outgoing: mpsc::Sender<Bytes>,
    calls: Mutex<Calls>,
    closed: CancellationToken,
    /// Why it was closed, by whoever did so first.
    why: OnceLock<String>,
    has_registered: std::sync::atomic::AtomicBool,
}

#[derive(Debug, Default)]
struct Calls {
    /// How many there were.
    count: u32,
    waiting: HashMap<u32, oneshot::Sender<Bytes>>,
}

impl Connection {
    /// Speaks over `stream` from now on. What the plugin asks comes from the receiver.
    pub(crate) fn open(stream: UnixStream) -> (Self, mpsc::Receiver<Asked>) {
        let (outgoing, to_write) = mpsc::channel(OUTGOING);
        let (asked, incoming) = mpsc::channel(INCOMING);
        let shared = Arc::new(Shared {
            outgoing,
            calls: Mutex::default(),
            closed: CancellationToken::new(),
            why: OnceLock::new(),
            has_registered: false.into(),
        });
        let (from, to) = stream.into_split();
        let connection = Self { shared };
        tokio::spawn(connection.clone().write(to, to_write));
        tokio::spawn(connection.clone().read(from, asked));
        (connection, incoming)
    }

    /// Asks the plugin. One that does not answer within `limit`, or answers nonsense, is closed.
    pub(crate) async fn call<A: prost::Message + Default>(
        &self,
        method: &str,
        payload: Bytes,
        limit: Duration,
    ) -> Result<A, Failure> {
        let timeout = i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX);
        let request = Request { service: PLUGIN.to_owned(), method: method.to_owned(), payload, timeout }
            .encode_to_vec();
        if request.len() > LONGEST {
            return Err(Failure::TooLong(request.len()));
        }
        let answer = tokio::select! {
            biased;
            // First of all: a plugin may close right after its answer.
            answer = tokio::time::timeout(limit, self.exchange(request.into())) => answer,
            () = self.closed() => return Err(Failure::Closed),
        };
        let Ok(answer) = answer else {
            self.close(format!("it did not answer {method} within {} s", limit.as_secs_f32()));
            return Err(Failure::Closed);
        };
        let answer = answer.ok_or(Failure::Closed)?;
        let nonsense = |why: String| {
            self.close(format!("its answer to {method} makes no sense: {why}"));
            Failure::Closed
        };
        let response: Response = decode(answer).map_err(nonsense)?;
        match response.status {
            Some(status) if status.code != Status::OK => Err(Failure::Refused(status)),
            _ => decode(response.payload).map_err(nonsense),
        }
    }

    /// Answers the plugin.
    pub(crate) async fn answer(&self, asked: &Asked, result: Result<Bytes, Status>) {
        let answer = answer(asked.stream, result);
        tokio::select! {
            () = self.closed() => {}
            _ = self.shared.outgoing.send(answer) => {}
        }
    }

    /// Takes longer messages from now on.
    pub(crate) fn has_registered(&self) {
        self.shared.has_registered.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Ends it. Requests that wait for an answer fail.
    pub(crate) fn close(&self, why: impl Into<String>) {
        let _ = self.shared.why.set(crate::error::cut(why.into()));
        self.shared.closed.cancel();
    }

    /// Why it was closed.
    pub(crate) fn why(&self) -> &str {
        self.shared.why.get().map_or("", String::as_str)
    }

    /// Whether it is.
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.closed.is_cancelled()
    }

    /// Waits until it is.
    pub(crate) async fn closed(&self) {
        self.shared.closed.cancelled().await;
    }

    /// Sends a request and waits for its answer; none if the connection closes.
    async fn exchange(&self, payload: Bytes) -> Option<Bytes> {
        let (answered, answer) = oneshot::channel();
        let place = self.shared.outgoing.reserve().await.ok()?;
        let call = {
            let mut calls = self.shared.calls();
            // Odd numbers, and in their order: so the other side wants them.
            let stream = calls.count.wrapping_mul(2).wrapping_add(1);
            calls.count = calls.count.wrapping_add(1);
            calls.waiting.insert(stream, answered);
            let message = Message { channel: Channel::Plugin, stream, kind: Type::Request, payload };
            place.send(message.encode());
            Call { shared: &self.shared, stream }
        };
        let answer = answer.await.ok();
        drop(call);
        answer
    }

    async fn write(self, mut to: OwnedWriteHalf, mut messages: mpsc::Receiver<Bytes>) {
        loop {
            let written = tokio::select! {
                biased;
                () = self.closed() => return,
                message = messages.recv() => match message {
                    Some(message) => message,
                    None => return,
                },
            };
            let result = tokio::select! {
                biased;
                () = self.closed() => return,
                result = to.write_all(&written) => result,
            };
            if let Err(error) = result {
                return self.close(format!("could not write to it: {error}"));
            }
        }
    }

    async fn read(self, mut from: OwnedReadHalf, asked: mpsc::Sender<Asked>) {
        let mut reader = Reader { connection: &self, asked, last: 0 };
        let mut decoder = Decoder::new(TAKEN_BEFORE);
        let why = tokio::select! {
            biased;
            () = self.closed() => return,
            why = reader.run(&mut from, &mut decoder) => why,
        };
        self.close(why);
    }
}

impl Shared {
    fn calls(&self) -> std::sync::MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that waits for its answer, or has been given up.
struct Call<'a> {
    shared: &'a Shared,
    stream: u32,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.shared.calls().waiting.remove(&self.stream);
    }
}

/// What reads and sorts.
struct Reader<'a> {
    connection: &'a Connection,
    asked: mpsc::Sender<Asked>,
    /// The number of the plugin's last request.
    last: u32,
}

impl Reader<'_> {
    /// Until the plugin closes or breaks the protocol; returns which.
    async fn run(&mut self, from: &mut OwnedReadHalf, decoder: &mut Decoder) -> String {
        loop {
            loop {
                if self.connection.shared.has_registered.load(std::sync::atomic::Ordering::Relaxed) {
                    decoder.set_limit(TAKEN);
                }
                match decoder.next() {
                    Ok(Some(message)) => match self.take(message) {
                        Ok(true) => {}
                        Ok(false) => tokio::time::sleep(PENALTY).await,
                        Err(why) => return why,
                    },
                    Ok(None) => break,
                    Err(broken) => return broken.to_string(),
                }
            }
            decoder.buffer().reserve(READ);
            match from.read_buf(decoder.buffer()).await {
                Ok(0) => return "it closed the connection".to_owned(),
                Ok(_) => {}
                Err(error) => return format!("could not read from it: {error}"),
            }
        }
    }

    /// Whether the message made sense; an error if nothing can after it.
    fn take(&mut self, message: Message) -> Result<bool, String> {
        match (message.channel, message.kind) {
            (Channel::Plugin, Type::Response) => {
                let waiting = self.connection.shared.calls().waiting.remove(&message.stream);
                // Answers to what nobody waits for any more come, too.
                Ok(waiting.is_some_and(|waiting| waiting.send(message.payload).is_ok()))
            }
            (Channel::Runtime, Type::Request) => self.ask(message.stream, message.payload),
            (channel, kind) => Err(format!("it sent a {kind:?} on the channel of {channel:?}")),
        }
    }

    fn ask(&mut self, stream: u32, payload: Bytes) -> Result<bool, String> {
        if stream.is_multiple_of(2) || stream <= self.last {
            return Err(format!("it sent request {stream} after {}", self.last));
        }
        self.last = stream;
        let request =
            Request::decode(payload).map_err(|error| format!("its request makes no sense: {error}"))?;
        let method = match (request.service.as_str(), request.method.as_str()) {
            (RUNTIME, "RegisterPlugin") => Some(Method::RegisterPlugin),
            (RUNTIME, "UpdateContainers") => Some(Method::UpdateContainers),
            _ => None,
        };
        let refused = match method {
            Some(method) => match self.asked.try_send(Asked { method, payload: request.payload, stream }) {
                Ok(()) => return Ok(true),
                Err(_) => Status::new(Status::RESOURCE_EXHAUSTED, "too many requests at once"),
            },
            None => Status::new(Status::UNIMPLEMENTED, "there is no such method"),
        };
        let answer = answer(stream, Err(refused));
        self.connection.shared.outgoing.try_send(answer).map_err(|_| "it does not read".to_owned())?;
        Ok(false)
    }
}

fn answer(stream: u32, result: Result<Bytes, Status>) -> Bytes {
    Message { channel: Channel::Runtime, stream, kind: Type::Response, payload: Response::of(result) }
        .encode()
}
