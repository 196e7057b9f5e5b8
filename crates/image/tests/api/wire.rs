//! A registry that decides about every byte that it sends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::registry::{Ask, Reply};

/// One thing that the registry does with a connection.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Send(Vec<u8>),
    /// One byte every 50 ms.
    Drip(Vec<u8>),
    /// The same, for as long as somebody listens.
    Repeat(Vec<u8>),
    /// Nothing, for as long as somebody listens.
    Stall,
    /// An end in the middle of things (RST).
    Reset,
    /// An orderly end.
    Close,
}

/// A running registry; it ends when this is dropped.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    sent: Arc<AtomicU64>,
    seen: Arc<Mutex<Vec<Ask>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Script = dyn Fn(&Ask) -> Vec<Act> + Send + Sync;

impl Wire {
    pub(crate) async fn start(script: impl Fn(&Ask) -> Vec<Act> + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", script).await
    }

    pub(crate) async fn start_at(
        address: &str,
        script: impl Fn(&Ask) -> Vec<Act> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sent, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (count, log) = (Arc::clone(&sent), Arc::clone(&seen));
        let script: Arc<Script> = Arc::new(script);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (script, count, log) = (Arc::clone(&script), Arc::clone(&count), Arc::clone(&log));
                // A client that goes away is part of the tests.
                connections.spawn(async move { drop(serve(stream, &*script, &count, &log).await) });
            }
        });
        Self { address, sent, seen, task }
    }

    pub(crate) fn reference(&self, rest: &str) -> vaquita_image::Reference {
        vaquita_image::Reference::parse(&format!("{}/{rest}", self.address)).unwrap()
    }

    /// Bytes that the kernel took from us, over all connections.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn seen(&self) -> Vec<Ask> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    script: &Script,
    sent: &AtomicU64,
    seen: &Mutex<Vec<Ask>>,
) -> std::io::Result<()> {
    while let Some(ask) = read(&mut stream).await? {
        let acts = script(&ask);
        seen.lock().unwrap().push(ask);
        for act in acts {
            match act {
                Act::Send(bytes) => write(&mut stream, &bytes, sent).await?,
                Act::Drip(bytes) => {
                    for byte in bytes {
                        write(&mut stream, &[byte], sent).await?;
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
                Act::Repeat(bytes) => loop {
                    write(&mut stream, &bytes, sent).await?;
                },
                Act::Stall => {
                    // Until the other side closes.
                    let mut rest = [0; 64];
                    while stream.read(&mut rest).await? != 0 {}
                    return Ok(());
                }
                Act::Reset => {
                    stream.set_zero_linger()?;
                    return Ok(());
                }
                Act::Close => return stream.shutdown().await,
            }
        }
    }
    Ok(())
}

async fn write(stream: &mut TcpStream, bytes: &[u8], sent: &AtomicU64) -> std::io::Result<()> {
    for piece in bytes.chunks(16 << 10) {
        stream.write_all(piece).await?;
        sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// The head of a request without a body; `None` at the end of the connection.
async fn read(stream: &mut TcpStream) -> std::io::Result<Option<Ask>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut words = text.split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (method, path) = (word(), word());
    let header = |name: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let from =
        header("range").and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse().ok());
    let authorization = header("authorization");
    Ok(Some(Ask { method, path, authorization, from, ..Ask::default() }))
}

impl Reply {
    /// As it goes over the wire, head and body.
    pub(crate) fn wire(&self) -> (Vec<u8>, Vec<u8>) {
        let mut head = format!("HTTP/1.1 {} Whatever\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.headers.iter().any(|(name, _)| matches!(*name, "content-length" | "transfer-encoding")) {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        (head.into_bytes(), self.body.clone())
    }

    /// Sent as it should be.
    pub(crate) fn sent(&self) -> Vec<Act> {
        let (head, body) = self.wire();
        vec![Act::Send(head), Act::Send(body)]
    }
}
