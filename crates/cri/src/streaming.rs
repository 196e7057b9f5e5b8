//! Exec, Attach and PortForward: the RPCs hand out URLs, and what is done over the connections is done here.

mod attach;
mod exec;
mod fd;
mod forward;

use std::sync::Arc;

use bytes::BytesMut;
use tokio::net::TcpStream;
use vaquita_proto::cri;
use vaquita_streaming::{Attach, Backend, Exec, Gone, Input, Output, PortForward, Request, Streams, Wanted};

use crate::node::Node;
use crate::{Error, Kind, Result};
use fd::Fd;

/// The node, as the connections use it.
pub(crate) struct Sessions(pub(crate) Arc<Node>);

/// A URL for a process in a running container.
pub(crate) fn exec_url(node: &Node, request: cri::ExecRequest) -> Result<String> {
    let cri::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr } = request;
    let streams = wanted(&container_id, Wanted { stdin, stdout, stderr, tty })?;
    if cmd.is_empty() {
        return Err(Error::invalid("cmd: there is no command"));
    }
    let container = node.tables.container(&container_id)?;
    container.expect_running("exec")?;
    url(node, Request::Exec(Exec { container: container.id().to_owned(), command: cmd, streams }))
}

/// A URL for the streams of a running container.
pub(crate) fn attach_url(node: &Node, request: cri::AttachRequest) -> Result<String> {
    let cri::AttachRequest { container_id, stdin, tty, stdout, stderr } = request;
    let streams = wanted(&container_id, Wanted { stdin, stdout, stderr, tty })?;
    let container = node.tables.container(&container_id)?;
    container.expect_running("attach")?;
    url(node, Request::Attach(Attach { container: container.id().to_owned(), streams }))
}

/// A URL for the ports of a pod.
pub(crate) fn port_forward_url(node: &Node, request: cri::PortForwardRequest) -> Result<String> {
    if request.pod_sandbox_id.is_empty() {
        return Err(Error::invalid("pod_sandbox_id: is missing"));
    }
    let ports = request.port.iter().map(|port| match u16::try_from(*port) {
        Ok(port @ 1..) => Ok(port),
        _ => Err(Error::invalid(format!("port: {port} is not in 1…65535"))),
    });
    let ports = ports.collect::<Result<_>>()?;
    let sandbox = node.tables.sandbox(&request.pod_sandbox_id)?;
    sandbox.open()?;
    url(node, Request::PortForward(PortForward { sandbox: sandbox.id().to_owned(), ports }))
}

fn wanted(container_id: &str, streams: Wanted) -> Result<Wanted> {
    if container_id.is_empty() {
        return Err(Error::invalid("container_id: is missing"));
    }
    streams.validate()?;
    Ok(streams)
}

fn url(node: &Node, request: Request) -> Result<String> {
    Ok(node.streaming.url_for(request)?)
}

impl Backend for Sessions {
    async fn exec(&self, request: Exec, streams: Streams) -> std::result::Result<u8, String> {
        let _open = self.0.telemetry.open("exec");
        exec::run(&self.0, &request, streams).await.map_err(|error| error.to_string())
    }

    async fn attach(&self, request: Attach, streams: Streams) -> std::result::Result<(), String> {
        let _open = self.0.telemetry.open("attach");
        attach::run(&self.0, &request, streams).await.map_err(|error| error.to_string())
    }

    async fn connect(&self, request: &PortForward, port: u16) -> std::result::Result<TcpStream, String> {
        forward::connect(&self.0, &request.sandbox, port).await.map_err(|error| error.to_string())
    }
}

impl From<vaquita_streaming::Error> for Error {
    /// Word for word: it says what to do.
    fn from(error: vaquita_streaming::Error) -> Self {
        use vaquita_streaming::Kind as Streaming;
        let kind = match error.kind() {
            Streaming::Exhausted => Kind::Exhausted,
            Streaming::Invalid => Kind::Invalid,
            _ => Kind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

/// What a process gets from its client, until that ends or the process takes no more. The descriptor is closed then.
async fn feed(input: Option<Input>, fd: Option<Fd>) {
    let (Some(mut input), Some(fd)) = (input, fd) else { return };
    while let Some(bytes) = input.read().await {
        if fd.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Hands over what was read, if anybody wants to see it.
async fn send(buffer: &mut BytesMut, output: Option<&Output>) -> std::result::Result<(), Gone> {
    let bytes = buffer.split().freeze();
    match output {
        Some(output) => output.write(bytes).await,
        None => Ok(()),
    }
}
