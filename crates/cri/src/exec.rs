//! ExecSync: a command in a running container, its output collected.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use oci_spec::runtime::Process;
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::time::Instant;
use vaquita_proto::cri;
use vaquita_shim::client::Client;
use vaquita_shim::{ExecRequest, Exit};

use crate::error::Doing;
use crate::model::Container;
use crate::node::Node;
use crate::{Error, Kind, Result, spec};

/// Bytes of output that are kept, of both streams together; what comes after is read and thrown away. Clients refuse
/// messages of more than 16 MiB, and a container must not fill the memory of the node (CVE-2022-1708).
pub(crate) const OUTPUT_LIMIT: usize = 6 << 20;

/// Runs a command to its end, or to its timeout.
pub(crate) async fn sync(node: &Arc<Node>, request: cri::ExecSyncRequest) -> Result<cri::ExecSyncResponse> {
    let container = node.tables.container(&request.container_id)?;
    container.expect_running("exec")?;
    let sandbox = node.tables.sandbox(&container.record.sandbox)?;
    let shim = sandbox.open()?.clone();
    let process = process(node, &container, &request.cmd, false)?;
    let timeout = match u64::try_from(request.timeout) {
        Ok(0) | Err(_) => None,
        Ok(seconds) => Some(Duration::from_secs(seconds)),
    };
    // In a task of its own: a client that goes away leaves nothing half done.
    let task = tokio::spawn(async move { run(&shim, &container, process, timeout).await });
    task.await.map_err(|error| Error::new(Kind::Internal, format!("the exec failed: {error}")))?
}

/// What is needed of a specification; the rest is passed over.
#[derive(Deserialize)]
struct ProcessOf {
    process: Option<Process>,
}

/// The container's own process with another command line, from the specification that it was made with.
pub(crate) fn process(node: &Node, container: &Container, command: &[String], tty: bool) -> Result<Vec<u8>> {
    let record = &container.record;
    let ProcessOf { process } = node.paths.read_spec(&record.sandbox, &record.id)?;
    let process =
        process.ok_or_else(|| Error::new(Kind::Corrupt, "the container's specification has no process"))?;
    let has_score = process.oom_score_adj().is_some();
    // Other runtimes do as they see fit.
    let is_ours = match node.tables.sandbox(&record.sandbox) {
        Ok(sandbox) => matches!(node.runtimes.find(&sandbox.record.runtime_handler), Ok(None)),
        Err(_) => true,
    };
    let score = match has_score && is_ours {
        true => Some(spec::oom_score_adj(&container.resources(), &node.host)?),
        false => None,
    };
    serde_json::to_vec(&spec::exec_process(process, command, tty, score)?).doing(|| "write the process down")
}

async fn run(
    shim: &Client,
    container: &Container,
    process: Vec<u8>,
    timeout: Option<Duration>,
) -> Result<cri::ExecSyncResponse> {
    let (stdout, stdout_end) = pipe()?;
    let (stderr, stderr_end) = pipe()?;
    // That its streams are closed is told a little before its exit, and would only wake us for nothing.
    let held = [stdout_end.try_clone().doing(|| "dup")?, stderr_end.try_clone().doing(|| "dup")?];
    let exec_id = container.next_exec();
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let request = ExecRequest { container: container.id().to_owned(), exec_id: exec_id.clone(), process };
    let mut begun = tokio::spawn({
        let shim = shim.clone();
        async move { shim.exec(&request, [None, Some(stdout_end), Some(stderr_end)]).await }
    });
    let Some(execed) = until(deadline, &mut begun).await else {
        // Its container is frozen, or the node is busy: it ends as soon as it has begun.
        let (shim, container) = (shim.clone(), container.id().to_owned());
        tokio::spawn(async move {
            if let Ok(Ok(_execed)) = begun.await {
                let _ = shim.kill_exec(&container, &exec_id).await;
            }
        });
        return Err(too_late(timeout));
    };
    let execed = execed
        .map_err(|error| Error::new(Kind::Internal, format!("the exec failed: {error}")))?
        .doing(|| format!("execute in container {}", container.id()))?;
    let mut output = Output { streams: [Stream::new(stdout), Stream::new(stderr)], room: OUTPUT_LIMIT };
    let Some(exit) = until(deadline, output.collect(async { execed.wait().await })).await else {
        // Should the shim be gone, so are its children.
        let _ = shim.kill_exec(container.id(), &exec_id).await;
        return Err(too_late(timeout));
    };
    drop(held);
    let exit = exit.doing(|| "wait for the command")?;
    let [stdout, stderr] = output.streams.map(|stream| stream.bytes.freeze());
    Ok(cri::ExecSyncResponse { stdout, stderr, exit_code: exit.code })
}

/// None if the deadline comes first.
async fn until<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, work).await.ok(),
        None => Some(work.await),
    }
}

fn too_late(timeout: Option<Duration>) -> Error {
    let seconds = timeout.unwrap_or_default().as_secs();
    Error::new(Kind::Timeout, format!("the command did not end within {seconds} s and was killed"))
}

fn pipe() -> Result<(Receiver, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing(|| "make a pipe")?;
    rustix::io::ioctl_fionbio(&read, true).doing(|| "make a pipe non-blocking")?;
    let receiver = Receiver::from_owned_fd(read).doing(|| "watch a pipe")?;
    Ok((receiver, write))
}

/// One stream, and what of it is kept.
struct Stream {
    pipe: Option<Receiver>,
    bytes: BytesMut,
}

impl Stream {
    fn new(pipe: Receiver) -> Self {
        Self { pipe: Some(pipe), bytes: BytesMut::new() }
    }
}

/// Both streams, and what may still be kept.
struct Output {
    streams: [Stream; 2],
    room: usize,
}

impl Output {
    /// Reads until the process has ended, then what it has left in the pipes: children that hold them open are not
    /// waited for.
    async fn collect(
        &mut self,
        exit: impl Future<Output = std::result::Result<Exit, vaquita_shim::Error>>,
    ) -> std::result::Result<Exit, vaquita_shim::Error> {
        let mut exit = std::pin::pin!(exit);
        let mut buffers = [vec![0_u8; 16 << 10], vec![0_u8; 16 << 10]];
        let [first, second] = &mut buffers;
        loop {
            let [stdout, stderr] = &mut self.streams;
            tokio::select! {
                result = &mut exit => {
                    self.drain(first);
                    return result;
                }
                count = read(&mut stdout.pipe, first) => self.keep(0, first, count),
                count = read(&mut stderr.pipe, second) => self.keep(1, second, count),
            }
        }
    }

    fn keep(&mut self, stream: usize, buffer: &[u8], count: usize) {
        let stream = &mut self.streams[stream];
        if count == 0 {
            stream.pipe = None;
        }
        let kept = count.min(self.room);
        stream.bytes.extend_from_slice(&buffer[..kept]);
        self.room -= kept;
    }

    fn drain(&mut self, buffer: &mut [u8]) {
        for index in 0..self.streams.len() {
            while let Some(pipe) = &self.streams[index].pipe {
                // Not tokio's way, which first wants to be told that there is something.
                match rustix::io::read(pipe, &mut *buffer) {
                    Ok(count) => self.keep(index, buffer, count),
                    Err(_) => break,
                }
            }
        }
    }
}

/// Bytes read; 0 at the end. Never ready where there is no stream.
async fn read(pipe: &mut Option<Receiver>, buffer: &mut [u8]) -> usize {
    match pipe {
        Some(pipe) => pipe.read(buffer).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// T20, and containerd#9568: a child that keeps the pipe open holds nobody up.
    #[tokio::test]
    async fn cve_2022_1708_output_is_bounded_and_ends_with_the_process() {
        let (stdout, stdout_end) = pipe().unwrap();
        let (stderr, stderr_end) = pipe().unwrap();
        let (done, exited) = tokio::sync::oneshot::channel();
        let writer = std::thread::spawn(move || {
            let mut stdout = std::fs::File::from(stdout_end);
            let line = vec![b'y'; 1 << 20];
            for _ in 0..OUTPUT_LIMIT / line.len() + 3 {
                stdout.write_all(&line).unwrap();
            }
            let mut stderr = std::fs::File::from(stderr_end);
            stderr.write_all(b"too late").unwrap();
            done.send(()).unwrap();
            (stdout, stderr)
        });
        let mut output = Output { streams: [Stream::new(stdout), Stream::new(stderr)], room: OUTPUT_LIMIT };
        let exit = output
            .collect(async {
                exited.await.unwrap();
                Ok(Exit { code: 3, ..Exit::default() })
            })
            .await
            .unwrap();
        assert_eq!(exit.code, 3);
        assert_eq!(output.streams[0].bytes.len(), OUTPUT_LIMIT);
        assert!(output.streams[1].bytes.is_empty());
        drop(writer.join().unwrap());
    }

    #[tokio::test]
    async fn what_is_left_in_the_pipes_is_read() {
        let (stdout, stdout_end) = pipe().unwrap();
        let (stderr, stderr_end) = pipe().unwrap();
        let mut both = [std::fs::File::from(stdout_end), std::fs::File::from(stderr_end)];
        both[0].write_all(b"out").unwrap();
        both[1].write_all(b"err").unwrap();
        let mut output = Output { streams: [Stream::new(stdout), Stream::new(stderr)], room: OUTPUT_LIMIT };
        output.collect(async { Ok(Exit::default()) }).await.unwrap();
        assert_eq!(&output.streams[0].bytes[..], b"out");
        assert_eq!(&output.streams[1].bytes[..], b"err");
    }
}
