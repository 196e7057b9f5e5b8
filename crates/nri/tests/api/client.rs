//! The other side of a connection: a plugin that does what a test says. It shares no code with the crate.

use std::path::Path;
use std::time::Duration;

use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use vaquita_nri::api::{
    ConfigureRequest, ConfigureResponse, Empty, Event, RegisterPluginRequest, SynchronizeRequest,
    SynchronizeResponse,
};

/// Longer than anything takes that does happen.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(string, tag = "1")]
    pub(super) service: String,
    #[prost(string, tag = "2")]
    pub(super) method: String,
    #[prost(bytes, tag = "3")]
    pub(super) payload: Vec<u8>,
    #[prost(int64, tag = "4")]
    pub(super) timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Response {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
    #[prost(bytes, tag = "2")]
    pub(super) payload: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

/// A plugin.
#[derive(Debug)]
pub(super) struct Client {
    stream: UnixStream,
    /// What has arrived of each channel.
    streams: [Vec<u8>; 2],
    /// The number of our next request.
    next: u32,
}

/// What the runtime asks.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) stream: u32,
    pub(super) request: Request,
}

impl Asked {
    pub(super) fn method(&self) -> &str {
        &self.request.method
    }

    pub(super) fn payload<M: Message + Default>(&self) -> M {
        M::decode(self.request.payload.as_slice()).unwrap()
    }
}

/// The bytes of events in a subscription.
pub(super) fn mask(events: &[Event]) -> i32 {
    events.iter().map(|event| 1 << (*event as i32 - 1)).sum()
}

impl Client {
    pub(super) async fn connect(socket: &Path) -> Self {
        Self::over(UnixStream::connect(socket).await.unwrap())
    }

    pub(super) fn over(stream: UnixStream) -> Self {
        Self { stream, streams: [Vec::new(), Vec::new()], next: 1 }
    }

    /// A plugin that has joined; returns what it was synchronized with.
    pub(super) async fn join(socket: &Path, index: &str, name: &str, events: &[Event]) -> Self {
        let mut client = Self::connect(socket).await;
        client.register(index, name).await.unwrap();
        client.configure(mask(events)).await;
        let synchronize = client.asked("Synchronize").await;
        assert!(!synchronize.payload::<SynchronizeRequest>().more);
        client.reply(&synchronize, &SynchronizeResponse::default()).await;
        client
    }

    pub(super) async fn register(&mut self, index: &str, name: &str) -> Result<(), Status> {
        let request = RegisterPluginRequest {
            plugin_name: name.to_owned(),
            plugin_idx: index.to_owned(),
            nri_version: "v0.12.0".to_owned(),
        };
        self.ask("RegisterPlugin", &request).await.map(|_: Empty| ())
    }

    pub(super) async fn configure(&mut self, events: i32) -> ConfigureRequest {
        let configure = self.asked("Configure").await;
        self.reply(&configure, &ConfigureResponse { events }).await;
        configure.payload()
    }

    /// Asks the runtime and waits for its answer. Nothing else may come meanwhile.
    pub(super) async fn ask<A: Message + Default>(
        &mut self,
        method: &str,
        request: &impl Message,
    ) -> Result<A, Status> {
        let stream = self.send_request("nri.pkg.api.v1alpha1.Runtime", method, request).await;
        let (answered, response) = self.response().await;
        assert_eq!(answered, stream);
        response
    }

    /// Asks without waiting; returns the number of the request.
    pub(super) async fn send_request(&mut self, service: &str, method: &str, request: &impl Message) -> u32 {
        let stream = self.next;
        self.next += 2;
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload: request.encode_to_vec(),
            timeout: 0,
        };
        self.send(&frame(2, &message(stream, 1, &request.encode_to_vec()))).await;
        stream
    }

    /// The next answer.
    pub(super) async fn response<A: Message + Default>(&mut self) -> (u32, Result<A, Status>) {
        let (channel, stream, kind, payload) =
            self.receive().await.expect("the runtime closed the connection");
        assert_eq!((channel, kind), (2, 2));
        let response = Response::decode(payload.as_slice()).unwrap();
        let answer = match response.status {
            Some(status) => Err(status),
            None => Ok(A::decode(response.payload.as_slice()).unwrap()),
        };
        (stream, answer)
    }

    /// What the runtime asks next, which is this.
    pub(super) async fn asked(&mut self, method: &str) -> Asked {
        let asked = self.next().await.expect("the runtime closed the connection");
        assert_eq!(asked.method(), method);
        asked
    }

    /// What the runtime asks next; none if it has closed the connection.
    pub(super) async fn next(&mut self) -> Option<Asked> {
        let (channel, stream, kind, payload) = self.receive().await?;
        assert_eq!((channel, kind), (1, 1));
        let request = Request::decode(payload.as_slice()).unwrap();
        assert_eq!(request.service, "nri.pkg.api.v1alpha1.Plugin");
        assert!(request.timeout > 0);
        Some(Asked { stream, request })
    }

    pub(super) async fn reply(&mut self, asked: &Asked, answer: &impl Message) {
        let response = Response { status: None, payload: answer.encode_to_vec() };
        self.send(&frame(1, &message(asked.stream, 2, &response.encode_to_vec()))).await;
    }

    pub(super) async fn refuse(&mut self, asked: &Asked, code: i32, text: &str) {
        let status = Some(Status { code, message: text.to_owned() });
        let response = Response { status, payload: Vec::new() };
        self.send(&frame(1, &message(asked.stream, 2, &response.encode_to_vec()))).await;
    }

    /// Writes any bytes; whether they could be.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Waits until the runtime has closed the connection, whatever else it says.
    pub(super) async fn closed(&mut self) {
        let read = async {
            let mut buffer = vec![0; 1 << 16];
            while self.stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
        };
        tokio::time::timeout(PATIENCE, read).await.expect("the runtime has not closed the connection");
    }

    /// The next message: channel, number, type and payload. None at the end.
    async fn receive(&mut self) -> Option<(u32, u32, u8, Vec<u8>)> {
        tokio::time::timeout(PATIENCE, self.receive_at_last()).await.expect("nothing comes")
    }

    async fn receive_at_last(&mut self) -> Option<(u32, u32, u8, Vec<u8>)> {
        loop {
            for (at, bytes) in self.streams.iter_mut().enumerate() {
                let Some((header, rest)) = bytes.split_first_chunk::<10>() else { continue };
                let number = |at: usize| {
                    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
                };
                let length = number(0) as usize;
                if rest.len() >= length {
                    let (stream, kind, payload) = (number(4), header[8], rest[..length].to_vec());
                    bytes.drain(..10 + length);
                    return Some((at as u32 + 1, stream, kind, payload));
                }
            }
            let channel = self.stream.read_u32().await.ok()?;
            let length = self.stream.read_u32().await.ok()? as usize;
            let bytes = &mut self.streams[channel as usize - 1];
            // A peer that is Go's library begins a message with a buffer of this size, and fails when a frame is longer.
            assert!(length <= 4096 || !bytes.is_empty(), "the first frame has {length} bytes");
            let before = bytes.len();
            bytes.resize(before + length, 0);
            self.stream.read_exact(&mut bytes[before..]).await.ok()?;
        }
    }
}

/// A message of ttrpc.
pub(super) fn message(stream: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_be_bytes()[..], &stream.to_be_bytes(), &[kind, 0], payload].concat()
}

/// A frame of a channel.
pub(super) fn frame(channel: u32, bytes: &[u8]) -> Vec<u8> {
    [&channel.to_be_bytes()[..], &(bytes.len() as u32).to_be_bytes(), bytes].concat()
}
