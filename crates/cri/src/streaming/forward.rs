//! Connections to the ports of a pod.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::net::{TcpSocket, TcpStream};
use vaquita_proto::cri::NamespaceMode;

use crate::error::Doing;
use crate::node::{Node, blocking};
use crate::{Error, Kind, Result};

/// Connects to a port on the loopback interface of the pod: by IPv4, then by IPv6.
pub(super) async fn connect(node: &Arc<Node>, sandbox: &str, port: u16) -> Result<TcpStream> {
    let sandbox = node.tables.sandbox(sandbox)?;
    let shim = sandbox.open()?.clone();
    let netns = match sandbox.namespaces().network == NamespaceMode::Node as i32 {
        true => None,
        false => Some(shim.netns().await.doing(|| "find the network of the pod")?),
    };
    let (v4, v6) = sockets(netns).await?;
    let mut failures = Vec::new();
    for (family, socket, ip) in
        [("IPv4", v4, Ipv4Addr::LOCALHOST.into()), ("IPv6", v6, Ipv6Addr::LOCALHOST.into())]
    {
        let connected = match socket {
            Ok(socket) => socket.connect(SocketAddr::new(ip, port)).await,
            Err(error) => Err(error),
        };
        match connected {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => failures.push(format!("{family}: {error}")),
        }
    }
    let message =
        format!("failed to connect to localhost:{port} inside pod {}: {}", sandbox.id(), failures.join(", "));
    Err(Error::new(Kind::Unavailable, message))
}

/// A socket stays in the network that it was made in, whoever uses it: only that needs a thread which goes there.
async fn sockets(netns: Option<OwnedFd>) -> Result<(std::io::Result<TcpSocket>, std::io::Result<TcpSocket>)> {
    let make = || (TcpSocket::new_v4(), TcpSocket::new_v6());
    match netns {
        None => Ok(make()),
        Some(netns) => {
            blocking("make a socket in the pod's network", move || {
                vaquita_sys::ns::in_netns(&netns, make).doing(|| "enter the pod's network")
            })
            .await
        }
    }
}
