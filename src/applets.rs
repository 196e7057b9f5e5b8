//! Small programs of the demo image, so that a pod can do something without any image from outside.
//!
//! In that image `/bin/cat` and so on are links to this binary. They do what their namesakes do, without options.

mod health;

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The names; [`main`] knows each.
pub(crate) const NAMES: &[&str] = &[
    "cat", "cp", "echo", "env", "false", "get", "health", "hostname", "id", "ls", "pwd", "sleep", "touch",
    "true", "visit",
];

/// Whether a process of this name is an applet.
pub(crate) fn is_applet(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Runs one.
pub(crate) fn main(name: &str, args: &[OsString]) -> ExitCode {
    let result = match name {
        "cat" => cat(args),
        "cp" => copy(args),
        "echo" => echo(args),
        "env" => environment(),
        "false" => return ExitCode::FAILURE,
        "get" => get(args),
        "health" => return block_on(health::serve(args)),
        "hostname" => show(rustix::system::uname().nodename().to_bytes()),
        "id" => identity(),
        "ls" => list(args),
        "pwd" => std::env::current_dir().map_err(Into::into).and_then(|dir| show(dir.as_os_str().as_bytes())),
        "sleep" => return block_on(sleep(args)),
        "touch" => touch(args),
        "true" => Ok(()),
        "visit" => return block_on(visit(args)),
        other => Err(anyhow::anyhow!("no such applet: {other}")),
    };
    finish(name, result.map(|()| ExitCode::SUCCESS))
}

fn finish(name: &str, result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        // Nobody is left to tell where standard error is closed.
        let _ = crate::terminal::err(&format!("{name}: {error:#}\n"));
        ExitCode::FAILURE
    })
}

fn block_on(future: impl Future<Output = Result<ExitCode>>) -> ExitCode {
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .and_then(|runtime| runtime.block_on(future));
    finish("vaquita", result)
}

fn show(line: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(line)?;
    out.write_all(b"\n")?;
    Ok(())
}

fn cat(paths: &[OsString]) -> Result<()> {
    let mut out = io::stdout().lock();
    if paths.is_empty() {
        io::copy(&mut io::stdin().lock(), &mut out)?;
    }
    for path in paths {
        let mut file = File::open(path).with_context(|| path.display().to_string())?;
        io::copy(&mut file, &mut out).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn copy(args: &[OsString]) -> Result<()> {
    let [from, to] = args else { bail!("usage: cp FROM TO") };
    let mut target = Path::new(to).to_path_buf();
    if target.is_dir() {
        target.push(Path::new(from).file_name().context("FROM has no file name")?);
    }
    std::fs::copy(from, &target).with_context(|| format!("{} to {}", from.display(), target.display()))?;
    Ok(())
}

fn echo(args: &[OsString]) -> Result<()> {
    let words: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
    show(&words.join(&b' '))
}

fn environment() -> Result<()> {
    for (name, value) in std::env::vars_os() {
        show(&[name.as_bytes(), b"=", value.as_bytes()].concat())?;
    }
    Ok(())
}

fn identity() -> Result<()> {
    let groups = rustix::process::getgroups().context("getgroups")?;
    let groups: Vec<String> = groups.iter().map(|group| group.as_raw().to_string()).collect();
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    show(format!("uid={} gid={} groups={}", user.as_raw(), group.as_raw(), groups.join(",")).as_bytes())
}

fn list(args: &[OsString]) -> Result<()> {
    let path = args.first().map_or(Path::new("."), Path::new);
    let metadata = path.metadata().with_context(|| path.display().to_string())?;
    if !metadata.is_dir() {
        return show(path.as_os_str().as_bytes());
    }
    let mut names: Vec<OsString> = Vec::new();
    for entry in path.read_dir().with_context(|| path.display().to_string())? {
        names.push(entry?.file_name());
    }
    names.sort();
    names.iter().try_for_each(|name| show(name.as_bytes()))
}

fn touch(paths: &[OsString]) -> Result<()> {
    for path in paths {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// `get URL`: prints the body; fails unless the status is below 400.
fn get(args: &[OsString]) -> Result<()> {
    let url = args.first().and_then(|url| url.to_str()).context("usage: get http://ADDRESS:PORT/PATH")?;
    let (status, body) = fetch(url)?;
    io::stdout().lock().write_all(&body)?;
    if status >= 400 {
        bail!("{url}: HTTP {status}");
    }
    Ok(())
}

/// One request by HTTP/1.0 to a numeric address or `localhost`: the image has no resolver.
fn fetch(url: &str) -> Result<(u16, Vec<u8>)> {
    let rest = url.strip_prefix("http://").context("the URL must start with http://")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let numeric = authority.replace("localhost", "127.0.0.1");
    let address: SocketAddr = numeric
        .parse()
        .or_else(|_| format!("{numeric}:80").parse())
        .with_context(|| format!("{authority} is not ADDRESS:PORT"))?;
    let timeout = Duration::from_secs(5);
    let mut stream =
        TcpStream::connect_timeout(&address, timeout).with_context(|| format!("connect {address}"))?;
    stream.set_read_timeout(Some(timeout))?;
    write!(stream, "GET /{path} HTTP/1.0\r\nHost: {authority}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).with_context(|| format!("read from {address}"))?;
    parse_answer(&answer).with_context(|| format!("{address} does not speak HTTP"))
}

fn parse_answer(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer[end + 4..].to_vec()))
}

/// `sleep SECONDS|infinity`; ends with 143 on SIGTERM, which the first process of a container must ask for.
async fn sleep(args: &[OsString]) -> Result<ExitCode> {
    let text = args.first().and_then(|arg| arg.to_str()).context("usage: sleep SECONDS")?;
    let time = match text {
        "infinity" => None,
        text => Some(
            text.parse()
                .ok()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .with_context(|| format!("not a number of seconds: {text}"))?,
        ),
    };
    let mut terminate = Terminate::new()?;
    tokio::select! {
        code = terminate.wait() => Ok(code),
        () = wait(time) => Ok(ExitCode::SUCCESS),
    }
}

async fn wait(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// `visit URL [SECONDS]`: requests again and again, a line each; what a sidecar might do.
async fn visit(args: &[OsString]) -> Result<ExitCode> {
    let usage = "usage: visit URL [SECONDS]";
    let url = args.first().and_then(|url| url.to_str()).context(usage)?;
    let seconds: u64 =
        args.get(1).map_or(Some(10), |text| text.to_str()?.parse().ok()).filter(|s| *s > 0).context(usage)?;
    let mut terminate = Terminate::new()?;
    let mut clock = tokio::time::interval(Duration::from_secs(seconds));
    loop {
        tokio::select! {
            code = terminate.wait() => return Ok(code),
            _ = clock.tick() => {}
        }
        match fetch(url) {
            Ok((status, body)) => show(format!("{url}: {status}, {} bytes", body.len()).as_bytes())?,
            Err(error) => show(format!("{url}: {error:#}").as_bytes())?,
        }
    }
}

/// SIGTERM and SIGINT: the first process of a PID namespace gets them only if it asks.
pub(crate) struct Terminate {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

impl Terminate {
    pub(crate) fn new() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let asked = "cannot ask for signals";
        Ok(Self {
            term: signal(SignalKind::terminate()).context(asked)?,
            int: signal(SignalKind::interrupt()).context(asked)?,
        })
    }

    /// The exit status that a shell would show for the signal that came.
    pub(crate) async fn wait(&mut self) -> ExitCode {
        tokio::select! {
            _ = self.term.recv() => ExitCode::from(143),
            _ = self.int.recv() => ExitCode::from(130),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_apart() {
        let answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nno\n";
        assert_eq!(parse_answer(answer), Some((503, b"no\n".to_vec())));
        assert_eq!(parse_answer(b"SSH-2.0\r\n\r\n"), None);
        assert_eq!(parse_answer(b"HTTP/1.1 200 OK\r\n"), None);
    }

    #[test]
    fn every_name_is_known() {
        assert!(NAMES.is_sorted());
        assert!(is_applet("sleep") && !is_applet("vaquita"));
    }
}
