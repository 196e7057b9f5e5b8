//! A client at the streams of a container.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::Interest;
use vaquita_shim::AttachRequest;
use vaquita_shim::client::{Attached, Client};
use vaquita_streaming::{Attach, Output, Size, Sizes, Streams};

use super::{Fd, feed, send};
use crate::Result;
use crate::error::Doing;
use crate::node::Node;

/// Connects the client with the container until one of them ends. The container does not notice: its output goes to its
/// log in any case, and waits for no client.
pub(super) async fn run(node: &Arc<Node>, request: &Attach, streams: Streams) -> Result<()> {
    let container = node.tables.container(&request.container)?;
    container.expect_running("attach")?;
    let shim = node.tables.sandbox(&container.record.sandbox)?.open()?.clone();
    let wanted = request.streams;
    let asked = AttachRequest {
        container: container.id().to_owned(),
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
    };
    let attached = shim.attach(&asked).await.doing(|| format!("attach to container {}", container.id()))?;
    let watched = |fd: Option<OwnedFd>, interest| {
        fd.map(|fd| Fd::new(fd, interest)).transpose().doing(|| "watch a stream of the container")
    };
    let Attached { stdin, stdout, stderr } = attached;
    let to = watched(stdin, Interest::WRITABLE)?;
    let from = watched(stdout, Interest::READABLE)?;
    let errors = watched(stderr, Interest::READABLE)?;
    let Streams { stdin, stdout, stderr, sizes, mut client } = streams;
    let has_output = from.is_some() || errors.is_some();
    let output = async {
        tokio::join!(show(from, stdout), show(errors, stderr));
        if !has_output {
            container.over().await;
        }
    };
    let others = async {
        tokio::join!(feed(stdin, to), resize(&shim, container.id(), wanted.tty, sizes));
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = output => {}
        () = others => {}
        () = client.gone() => {}
    }
    Ok(())
}

async fn show(fd: Option<Fd>, output: Option<Output>) {
    let (Some(fd), Some(output)) = (fd, output) else { return };
    let mut buffer = BytesMut::new();
    while let Ok(1..) = fd.read(&mut buffer).await {
        if send(&mut buffer, Some(&output)).await.is_err() {
            return;
        }
    }
}

/// The size of the terminal follows that of the client's.
async fn resize(shim: &Client, id: &str, tty: bool, mut sizes: Sizes) {
    if !tty {
        return;
    }
    loop {
        let Size { width, height } = sizes.next().await;
        if let Err(error) = shim.resize(id, width, height).await {
            tracing::debug!(container = id, %error, "the size of the terminal was not changed");
        }
    }
}
