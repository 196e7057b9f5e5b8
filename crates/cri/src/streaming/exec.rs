//! A process in a running container, and a client that may type into it.

use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;

use bytes::BytesMut;
use rustix::pipe::PipeFlags;
use tokio::io::Interest;
use tokio::sync::watch;
use vaquita_shim::ExecRequest;
use vaquita_shim::client::Execed;
use vaquita_streaming::{Exec, Output, Size, Sizes, Streams};

use super::{Fd, feed, send};
use crate::error::Doing;
use crate::node::Node;
use crate::{Result, exec};

/// What is read at most of what a process has left behind while others go on writing: more than any pipe holds.
const LAST_READ: usize = 1 << 20;

/// Our ends of the process's streams. With a terminal all of them are the same.
struct Ends {
    stdin: Option<Fd>,
    stdout: Option<Fd>,
    stderr: Option<Fd>,
    terminal: Option<OwnedFd>,
}

/// Runs the process, and returns its exit code.
pub(super) async fn run(node: &Arc<Node>, request: &Exec, streams: Streams) -> Result<u8> {
    let container = node.tables.container(&request.container)?;
    container.expect_running("exec")?;
    let shim = node.tables.sandbox(&container.record.sandbox)?.open()?.clone();
    let process = exec::process(node, &container, &request.command, request.streams.tty)?;
    let doing = || format!("execute in container {}", container.id());
    let asked = ExecRequest { container: container.id().to_owned(), exec_id: container.next_exec(), process };
    let (ends, theirs) = pipes(request)?;
    let mut execed = shim.exec(&asked, theirs).await.doing(doing)?;
    let ends = match execed.console.take() {
        Some(console) => terminal(console)?,
        None => ends,
    };
    let Streams { stdin, stdout, stderr, sizes, mut client } = streams;
    let Ends { stdin: to, stdout: from, stderr: errors, terminal } = ends;
    let mut exit = pin!(until_exit(execed, [(from, stdout), (errors, stderr)]));
    let others = async {
        tokio::join!(feed(stdin, to), resize(terminal.as_ref(), sizes));
        std::future::pending::<()>().await;
    };
    // Lives until the process is dead: the end of its input is no reason for it to think that it was done.
    let mut others = pin!(others);
    tokio::select! {
        exit = &mut exit => return exit,
        () = &mut others => {}
        () = client.gone() => {}
    }
    // The process alone: what it has left in the background was meant to stay. Of a terminal, the kernel tells those in its
    // foreground.
    shim.kill_exec(&asked.container, &asked.exec_id)
        .await
        .doing(|| "kill what ran for a client that is gone")?;
    exit.await
}

/// Waits for the process, and shows what it writes. Children that hold its streams open are not waited for.
async fn until_exit(execed: Execed, streams: [(Option<Fd>, Option<Output>); 2]) -> Result<u8> {
    let (ended, is_over) = watch::channel(false);
    let [stdout, stderr] = streams.map(|(fd, output)| show(fd, output, is_over.clone()));
    let exit = async {
        let exit = execed.wait().await;
        ended.send_replace(true);
        exit
    };
    let (exit, (), ()) = tokio::join!(exit, stdout, stderr);
    let exit = exit.doing(|| "wait for the command")?;
    Ok(u8::try_from(exit.code).unwrap_or(u8::MAX))
}

/// Shows what comes until the end of the process, then what it has left. What nobody wants to see is thrown away.
async fn show(fd: Option<Fd>, output: Option<Output>, mut is_over: watch::Receiver<bool>) {
    let Some(fd) = fd else { return };
    let mut buffer = BytesMut::new();
    loop {
        let read = tokio::select! {
            biased;
            _ = is_over.wait_for(|is_over| *is_over) => break,
            read = fd.read(&mut buffer) => read,
        };
        if !matches!(read, Ok(1..)) || send(&mut buffer, output.as_ref()).await.is_err() {
            return;
        }
    }
    let mut total = 0;
    while total < LAST_READ
        && let Ok(count @ 1..) = fd.try_read(&mut buffer)
        && send(&mut buffer, output.as_ref()).await.is_ok()
    {
        total += count;
    }
}

/// The size of the terminal follows that of the client's.
async fn resize(terminal: Option<&OwnedFd>, mut sizes: Sizes) {
    let Some(terminal) = terminal else { return };
    loop {
        let Size { width: columns, height: rows } = sizes.next().await;
        // A terminal that is gone has no size.
        let _ = vaquita_sys::tty::set_size(terminal, vaquita_sys::tty::Size { rows, columns });
    }
}

/// Pipes for the streams that the client wants, ours and the process's ends; none where there will be a terminal.
fn pipes(request: &Exec) -> Result<(Ends, [Option<OwnedFd>; 3])> {
    let wanted = request.streams;
    let mut ends = Ends { stdin: None, stdout: None, stderr: None, terminal: None };
    let mut theirs = [None, None, None];
    if wanted.tty {
        return Ok((ends, theirs));
    }
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).doing(|| "make a pipe");
    if wanted.stdin {
        let (read, write) = pipe()?;
        theirs[0] = Some(read);
        ends.stdin = Some(watched(write, Interest::WRITABLE)?);
    }
    for (at, is_wanted, end) in [(1, wanted.stdout, &mut ends.stdout), (2, wanted.stderr, &mut ends.stderr)] {
        if is_wanted {
            let (read, write) = pipe()?;
            theirs[at] = Some(write);
            *end = Some(watched(read, Interest::READABLE)?);
        }
    }
    Ok((ends, theirs))
}

/// The terminal as each of the streams.
fn terminal(console: OwnedFd) -> Result<Ends> {
    let copy = || console.try_clone().doing(|| "copy the descriptor of a terminal");
    Ok(Ends {
        stdin: Some(watched(copy()?, Interest::WRITABLE)?),
        stdout: Some(watched(copy()?, Interest::READABLE)?),
        stderr: None,
        terminal: Some(console),
    })
}

fn watched(fd: OwnedFd, interest: Interest) -> Result<Fd> {
    Fd::new(fd, interest).doing(|| "watch a stream")
}
