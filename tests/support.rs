//! A node of its own for each test, and short ways to say what a test wants of it.

mod archive;
mod container;
mod node;
mod place;
mod registry;
mod run;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

pub(crate) use archive::{BUSYBOX, Tar, busybox as write_busybox};
pub(crate) use container::Pod;
pub(crate) use node::{Node, succeed};
pub(crate) use place::may_lower_oom_score;
pub(crate) use registry::{PASSWORD, Registry, USER};
pub(crate) use run::{Ended, Run};

/// The demo image: no archive, no registry.
pub(crate) const DEMO: &str = "vaquita.local/demo:latest";

/// How long anything may take before the test fails: generous, because the machine may be busy, or its processor emulated.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

/// One HTTP request from the host; status and body. `None`: nobody answers.
pub(crate) fn http(method: &str, address: &str, port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream =
        TcpStream::connect_timeout(&format!("{address}:{port}").parse().unwrap(), PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Looks again and again until there is an answer.
///
/// # Panics
/// When there is none in time; `what` says what was waited for.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A manifest with the name of the busybox image where it says `BUSYBOX`.
pub(crate) fn with_busybox(text: &str) -> String {
    text.replace("BUSYBOX", BUSYBOX)
}
