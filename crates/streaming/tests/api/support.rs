//! A server with a backend that does what the words of the command say, and the first step of its clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use vaquita_streaming::{Attach, Backend, Config, Exec, PortForward, Request, Server, Streams, Wanted};

use crate::spdy::Spdy;

/// All that a client can want without a terminal.
pub(crate) const ALL: Wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };

/// What the tests see of the backend.
#[derive(Debug, Default)]
pub(crate) struct Double {
    /// Bytes that `yes` got rid of.
    pub(crate) written: AtomicUsize,
    /// Sessions whose clients went away.
    pub(crate) abandoned: AtomicUsize,
    /// Told with each of them.
    pub(crate) left: Notify,
}

impl Backend for Double {
    async fn exec(&self, request: Exec, mut streams: Streams) -> Result<u8, String> {
        let words: Vec<&str> = request.command.iter().map(String::as_str).collect();
        match words[..] {
            ["exit", code] => return Ok(code.parse().unwrap()),
            ["fail", why] => return Err(why.to_owned()),
            ["both"] => {
                streams.stdout.unwrap().write("out".into()).await.unwrap();
                streams.stderr.unwrap().write("err".into()).await.unwrap();
            }
            ["cat"] => {
                let (mut stdin, stdout) = (streams.stdin.unwrap(), streams.stdout.unwrap());
                while let Some(bytes) = stdin.read().await {
                    stdout.write(bytes).await.unwrap();
                }
            }
            ["size"] => {
                let size = streams.sizes.next().await;
                let text = format!("{}x{}", size.width, size.height);
                streams.stdout.unwrap().write(text.into()).await.unwrap();
            }
            ["yes"] => {
                let stdout = streams.stdout.unwrap();
                while stdout.write(Bytes::from_static(&[b'y'; 32 << 10])).await.is_ok() {
                    self.written.fetch_add(32 << 10, Ordering::SeqCst);
                }
                self.leave();
            }
            ["close-stdin"] => {
                drop(streams.stdin);
                self.wait(streams.client).await;
            }
            ["sleep"] => self.wait(streams.client).await,
            _ => panic!("{words:?}"),
        }
        Ok(0)
    }

    async fn attach(&self, request: Attach, streams: Streams) -> Result<(), String> {
        streams.stdout.unwrap().write(request.container.into()).await.unwrap();
        Ok(())
    }

    async fn connect(&self, _: &PortForward, port: u16) -> Result<TcpStream, String> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        TcpStream::connect(address).await.map_err(|error| format!("nobody at {port}: {error}"))
    }
}

impl Double {
    async fn wait(&self, mut client: vaquita_streaming::Client) {
        client.gone().await;
        self.leave();
    }

    fn leave(&self) {
        self.abandoned.fetch_add(1, Ordering::SeqCst);
        self.left.notify_one();
    }
}

/// A server that serves until it is dropped.
pub(crate) struct Running {
    pub(crate) server: Arc<Server>,
    pub(crate) backend: Arc<Double>,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) fn new() -> Self {
        Self::with(&Config::default())
    }

    pub(crate) fn with(config: &Config) -> Self {
        let server = Arc::new(Server::bind(config).unwrap());
        let backend = Arc::new(Double::default());
        let task = tokio::spawn({
            let (server, backend) = (server.clone(), backend.clone());
            async move { server.serve(backend).await }
        });
        Self { server, backend, task }
    }

    /// The path of a URL for a command.
    pub(crate) fn exec(&self, command: &[&str], streams: Wanted) -> String {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let request = Exec { container: "c".into(), command, streams };
        self.path(Request::Exec(request))
    }

    /// The path of a URL for ports.
    pub(crate) fn ports(&self, ports: &[u16]) -> String {
        self.path(Request::PortForward(PortForward { sandbox: "s".into(), ports: ports.to_vec() }))
    }

    pub(crate) fn path(&self, request: Request) -> String {
        let url = self.server.url_for(request).unwrap();
        let base = format!("http://{}", self.server.address());
        url.strip_prefix(&base).unwrap().to_owned()
    }

    /// Sends a request with these header lines; the head of the answer, and the connection after it.
    pub(crate) async fn request(&self, method: &str, path: &str, headers: &[&str]) -> (String, TcpStream) {
        let mut socket = TcpStream::connect(self.server.address()).await.unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{}\r\n", headers.concat());
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(socket.read_u8().await.unwrap());
        }
        (String::from_utf8(answer).unwrap(), socket)
    }

    /// A connection upgraded to SPDY, whose protocol is the first of these.
    pub(crate) async fn spdy(&self, path: &str, protocols: &[&str]) -> Spdy<TcpStream> {
        let mut headers = vec!["Connection: Upgrade\r\n".to_owned(), "Upgrade: SPDY/3.1\r\n".to_owned()];
        headers.extend(protocols.iter().map(|name| format!("X-Stream-Protocol-Version: {name}\r\n")));
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let (answer, socket) = self.request("POST", path, &headers).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        let chosen = format!("x-stream-protocol-version: {}\r\n", protocols[0]);
        assert!(answer.contains(&chosen), "{answer}");
        Spdy::new(socket)
    }

    /// Waits until a session's client was seen to be gone.
    pub(crate) async fn someone_left(&self) {
        tokio::time::timeout(Duration::from_secs(60), self.backend.left.notified()).await.unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}
