//! `vaquita demo-server`: the web server inside the demo pod.
//!
//! It plays with what a kubelet watches: probes that fail on request, memory that grows until the limit.

use std::convert::Infallible;
use std::net::Ipv6Addr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue, LOCATION};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::applets::Terminate;
use crate::options::DemoServer;
use crate::terminal;

pub(crate) fn main(args: &DemoServer) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(args))
}

async fn serve(args: &DemoServer) -> Result<ExitCode> {
    let mut terminate = Terminate::new()?;
    // The IPv6 wildcard takes IPv4 too; a host without IPv6 has only the other.
    let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, args.port)).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind(("0.0.0.0", args.port))
            .await
            .with_context(|| format!("cannot listen on port {}", args.port))?,
    };
    let demo = Arc::new(Demo::new(Duration::from_secs(args.ready_after)));
    log(&format!("listening on port {}", args.port));
    loop {
        let accepted = tokio::select! {
            _ = terminate.wait() => break,
            accepted = listener.accept() => accepted,
        };
        // A connection that failed before it was accepted concerns its client only.
        let Ok((stream, _)) = accepted else { continue };
        let demo = Arc::clone(&demo);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = demo.answer(&request);
                async { Ok::<_, Infallible>(answer) }
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // A client that goes away is no news.
            let _ = connection.await;
        });
    }
    log("told to end: bye");
    Ok(ExitCode::SUCCESS)
}

/// One line on standard output, which is the container's log.
fn log(line: &str) {
    // A log that nobody can write any more must not stop the server.
    let _ = terminal::out(&format!("{line}\n"));
}

/// What the server remembers.
#[derive(Debug)]
struct Demo {
    started: Instant,
    ready_after: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    healthy: Switch,
    ready: Switch,
    memory: Vec<Vec<u8>>,
    pages: u64,
}

/// How many of the next probes fail.
#[derive(Clone, Copy, Debug, Default)]
struct Switch(u64);

impl Switch {
    /// Whether this probe fails; counts down.
    fn probe(&mut self) -> Option<u64> {
        let left = self.0.checked_sub(1)?;
        if self.0 != u64::MAX {
            self.0 = left;
        }
        Some(self.0)
    }
}

impl Demo {
    fn new(ready_after: Duration) -> Self {
        Self { started: Instant::now(), ready_after, state: Mutex::default() }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (method, path) = (request.method(), request.uri().path());
        let query = request.uri().query().unwrap_or("");
        let browser =
            request.headers().get(ACCEPT).is_some_and(|kinds| kinds.as_bytes().starts_with(b"text/html"));
        let answer = self.route(method, path, query);
        if !matches!((method, path), (&Method::GET, "/healthy" | "/ready")) {
            log(&format!("{method} {} {}", request.uri(), answer.status().as_u16()));
        }
        // A button of the page leads back to the page.
        let pressed = browser && method == Method::POST && answer.status().is_success();
        if pressed { back_to_page() } else { answer }
    }

    fn route(&self, method: &Method, path: &str, query: &str) -> Response<Full<Bytes>> {
        match (method.as_str(), path) {
            ("GET", "/") => self.page(),
            ("GET", "/healthy") => self.probe("healthy", |state| &mut state.healthy),
            ("GET", "/ready") if self.started.elapsed() < self.ready_after => {
                text(StatusCode::SERVICE_UNAVAILABLE, "warming up\n")
            }
            ("GET", "/ready") => self.probe("ready", |state| &mut state.ready),
            ("POST", "/healthy") => self.flip(query, "healthy", |state| &mut state.healthy),
            ("POST", "/ready") => self.flip(query, "ready", |state| &mut state.ready),
            ("GET", "/env") => text(StatusCode::OK, environment()),
            ("GET", "/mem") => text(StatusCode::OK, self.memory()),
            ("POST", "/mem") => self.allocate(query),
            ("POST", "/exit") => exit(query),
            ("GET", path) if path == "/fs" || path.starts_with("/fs/") => files(&path[3..]),
            _ => text(StatusCode::NOT_FOUND, "try / /healthy /ready /env /fs/ /mem\n"),
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn probe(&self, name: &str, switch: impl FnOnce(&mut State) -> &mut Switch) -> Response<Full<Bytes>> {
        match self.with(|state| switch(state).probe()) {
            None => text(StatusCode::OK, "ok\n"),
            Some(u64::MAX) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("not {name}, as asked\n")),
            Some(left) => {
                text(StatusCode::INTERNAL_SERVER_ERROR, format!("not {name}, as asked ({left} more)\n"))
            }
        }
    }

    fn flip(
        &self,
        query: &str,
        name: &str,
        switch: impl FnOnce(&mut State) -> &mut Switch,
    ) -> Response<Full<Bytes>> {
        let fail = match parameter(query, "fail") {
            None => u64::MAX,
            Some(number) => match number.parse() {
                Ok(fail) => fail,
                Err(_) => return text(StatusCode::BAD_REQUEST, "fail must be a number: 0 is well again\n"),
            },
        };
        self.with(|state| *switch(state) = Switch(fail));
        let message = match fail {
            0 => format!("{name} again\n"),
            u64::MAX => format!("not {name} until POST /{name}?fail=0\n"),
            times => format!("not {name} for the next {times} probes\n"),
        };
        text(StatusCode::OK, message)
    }

    fn memory(&self) -> String {
        let held: usize = self.with(|state| state.memory.iter().map(Vec::len).sum());
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("VmRSS: unknown");
        format!("held on request: {} MiB\n{resident}\n", held >> 20)
    }

    /// Takes memory and keeps it. Where the limit is lower the kernel ends this process: that is the point.
    fn allocate(&self, query: &str) -> Response<Full<Bytes>> {
        let Some(mib) = parameter(query, "mib").and_then(|number| number.parse::<usize>().ok()) else {
            return text(StatusCode::BAD_REQUEST, "POST /mem?mib=NUMBER\n");
        };
        if mib == 0 {
            self.with(|state| state.memory.clear());
        }
        for _ in 0..mib {
            self.with(|state| state.memory.push(vec![1; 1 << 20]));
        }
        text(StatusCode::OK, self.memory())
    }

    fn page(&self) -> Response<Full<Bytes>> {
        let pages = self.with(|state| {
            state.pages += 1;
            state.pages
        });
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let uptime = crate::size::duration(self.started.elapsed());
        let page = PAGE
            .replace("{host}", &escape(&host))
            .replace("{version}", env!("CARGO_PKG_VERSION"))
            .replace("{pages}", &pages.to_string())
            .replace("{uptime}", &uptime)
            .replace("{memory}", &escape(&self.memory()));
        respond(StatusCode::OK, "text/html; charset=utf-8", page)
    }
}

const PAGE: &str = include_str!("page.html");

fn environment() -> String {
    let mut lines: Vec<String> = std::env::vars_os()
        .map(|(name, value)| format!("{}={}\n", name.to_string_lossy(), value.to_string_lossy()))
        .collect();
    lines.sort();
    lines.concat()
}

/// A file or a directory of the container.
fn files(path: &str) -> Response<Full<Bytes>> {
    /// More is cut off: the answer is held in memory, which is limited.
    const LIMIT: u64 = 1 << 20;
    let path = std::path::Path::new(if path.is_empty() { "/" } else { path });
    let read = || -> std::io::Result<Vec<u8>> {
        use std::io::Read;
        if path.is_dir() {
            let mut names = Vec::new();
            for entry in path.read_dir()? {
                let entry = entry?;
                let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
                names.push(format!("{}{slash}\n", entry.file_name().to_string_lossy()));
            }
            names.sort();
            return Ok(names.concat().into_bytes());
        }
        let mut content = Vec::new();
        std::fs::File::open(path)?.take(LIMIT).read_to_end(&mut content)?;
        Ok(content)
    };
    match read() {
        Ok(content) => respond(StatusCode::OK, "text/plain; charset=utf-8", content),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            text(StatusCode::NOT_FOUND, format!("{}: {error}\n", path.display()))
        }
        Err(error) => text(StatusCode::FORBIDDEN, format!("{}: {error}\n", path.display())),
    }
}

/// Ends the server a moment later, so that the answer still arrives.
fn exit(query: &str) -> Response<Full<Bytes>> {
    let code: i32 = parameter(query, "code").and_then(|code| code.parse().ok()).unwrap_or(1);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        #[expect(clippy::exit, reason = "this is what was asked for")]
        std::process::exit(code);
    });
    text(StatusCode::OK, format!("ending with {code}\n"))
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body)
}

fn respond(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn back_to_page() -> Response<Full<Bytes>> {
    let mut answer = text(StatusCode::SEE_OTHER, "");
    answer.headers_mut().insert(LOCATION, HeaderValue::from_static("/"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(demo: &Demo, method: &Method, path: &str, query: &str) -> u16 {
        demo.route(method, path, query).status().as_u16()
    }

    #[test]
    fn a_probe_fails_as_often_as_asked() {
        let demo = Demo::new(Duration::ZERO);
        assert_eq!(status(&demo, &Method::GET, "/healthy", ""), 200);
        assert_eq!(status(&demo, &Method::POST, "/healthy", "fail=2"), 200);
        let answers: Vec<u16> = (0..3).map(|_| status(&demo, &Method::GET, "/healthy", "")).collect();
        assert_eq!(answers, [500, 500, 200]);
        assert_eq!(status(&demo, &Method::GET, "/ready", ""), 200);
    }

    #[test]
    fn without_a_number_it_fails_until_told_otherwise() {
        let demo = Demo::new(Duration::ZERO);
        assert_eq!(status(&demo, &Method::POST, "/ready", ""), 200);
        assert!((0..9).all(|_| status(&demo, &Method::GET, "/ready", "") == 500));
        assert_eq!(status(&demo, &Method::POST, "/ready", "fail=0"), 200);
        assert_eq!(status(&demo, &Method::GET, "/ready", ""), 200);
        assert_eq!(status(&demo, &Method::POST, "/ready", "fail=x"), 400);
    }

    #[test]
    fn it_is_not_ready_before_its_time() {
        let demo = Demo::new(Duration::from_secs(3600));
        assert_eq!(status(&demo, &Method::GET, "/ready", ""), 503);
        assert_eq!(status(&demo, &Method::GET, "/healthy", ""), 200);
    }

    #[test]
    fn files_and_memory_can_be_seen() {
        let demo = Demo::new(Duration::ZERO);
        assert_eq!(status(&demo, &Method::GET, "/fs/proc", ""), 200);
        assert_eq!(status(&demo, &Method::GET, "/fs/no/such", ""), 404);
        assert_eq!(status(&demo, &Method::POST, "/mem", "mib=2"), 200);
        assert!(demo.memory().starts_with("held on request: 2 MiB"));
        assert_eq!(status(&demo, &Method::POST, "/mem", "mib=0"), 200);
        assert!(demo.memory().starts_with("held on request: 0 MiB"));
        assert_eq!(status(&demo, &Method::DELETE, "/", ""), 404);
    }
}
