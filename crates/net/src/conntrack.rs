//! Forgetting connections that outlived the host port they came by.
//!
//! The kernel asks the nat rules about the first packet of a connection only. A sender of datagrams that never pauses
//! would go on reaching the address of a pod that is gone, or nobody, after a new pod has taken the port. (A TCP sender
//! is told by a reset and begins anew.)

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_bindings::utils::{finalize_nested_header, find_attr, push_header, push_nested_header};

use crate::firewall::Family;
use crate::netlink::{Batch, Socket};
use crate::{Error, Kind};

/// `NFNL_SUBSYS_CTNETLINK << 8`, then `IPCTNL_MSG_CT_GET` and `IPCTNL_MSG_CT_DELETE` (linux/netfilter/nfnetlink_conntrack.h).
const GET: u16 = 0x101;
const DELETE: u16 = 0x102;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
/// Compare the protocol and the destination port. Kernels before 5.8 give everything, which is compared here again.
const BY_PROTOCOL_AND_PORT: u32 = 1 << 3 | 1 << 5;
/// How long the family header is.
const HEADER: usize = 4;

/// A connection as its sender addressed it, and who answers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Flow {
    pub(crate) to: IpAddr,
    pub(crate) answers: (IpAddr, u16),
    /// CTA_TUPLE_ORIG and CTA_ID as the kernel gave them: they name the connection.
    tuple: Vec<u8>,
    id: Vec<u8>,
}

/// Forgets connections to a port that are `stale`. Without connection tracking in the kernel there is none.
pub(crate) fn forget(
    socket: &Socket,
    family: Family,
    protocol: u8,
    port: u16,
    stale: impl Fn(&Flow) -> bool,
) -> Result<(), Error> {
    let mut flows = Vec::new();
    let dumped = socket.dump(
        GET,
        "IPCTNL_MSG_CT_GET dump",
        |bytes| filter(bytes, family, protocol, port),
        |_, message| flows.extend(read(message, family, protocol, port)),
    );
    match dumped {
        Err(error) if error.kind() == Kind::Unsupported => return Ok(()),
        dumped => dumped?,
    }
    for flow in flows.iter().filter(|flow| stale(flow)) {
        let mut batch = Batch::new();
        let asked = format!("IPCTNL_MSG_CT_DELETE protocol {protocol} to {}:{port}", flow.to);
        batch.push(DELETE, 0, asked, |bytes| {
            bytes.extend_from_slice(&header(family));
            let tuple = push_nested_header(bytes, CTA_TUPLE_ORIG);
            bytes.extend_from_slice(&flow.tuple);
            finalize_nested_header(bytes, tuple);
            attribute(bytes, CTA_ID, &flow.id);
        });
        match socket.run(&batch) {
            // It ended by itself.
            Err(error) if error.kind() == Kind::NotFound => {}
            done => done?,
        }
    }
    Ok(())
}

fn filter(bytes: &mut Vec<u8>, family: Family, protocol: u8, port: u16) {
    bytes.extend_from_slice(&header(family));
    let tuple = push_nested_header(bytes, CTA_TUPLE_ORIG);
    let inner = push_nested_header(bytes, CTA_TUPLE_PROTO);
    attribute(bytes, CTA_PROTO_NUM, &[protocol]);
    attribute(bytes, CTA_PROTO_DST_PORT, &port.to_be_bytes());
    finalize_nested_header(bytes, inner);
    finalize_nested_header(bytes, tuple);
    let filter = push_nested_header(bytes, CTA_FILTER);
    attribute(bytes, CTA_FILTER_ORIG_FLAGS, &BY_PROTOCOL_AND_PORT.to_ne_bytes());
    finalize_nested_header(bytes, filter);
}

fn header(family: Family) -> [u8; HEADER] {
    [family.number(), 0, 0, 0]
}

fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    push_header(bytes, kind, u16::try_from(value.len()).unwrap_or(u16::MAX));
    bytes.extend_from_slice(value);
}

/// A connection of this protocol to this port.
fn read(message: &[u8], family: Family, protocol: u8, port: u16) -> Option<Flow> {
    let attributes = message.get(HEADER..)?;
    let tuple = find_attr(attributes, CTA_TUPLE_ORIG)?;
    let addressed = find_attr(tuple, CTA_TUPLE_PROTO)?;
    if find_attr(addressed, CTA_PROTO_NUM)?.first() != Some(&protocol)
        || port_of(addressed, CTA_PROTO_DST_PORT)? != port
    {
        return None;
    }
    let reply = find_attr(attributes, CTA_TUPLE_REPLY)?;
    let answering = port_of(find_attr(reply, CTA_TUPLE_PROTO)?, CTA_PROTO_SRC_PORT)?;
    let (source, destination) = match family {
        Family::V4 => (CTA_IP_V4_SRC, CTA_IP_V4_DST),
        Family::V6 => (CTA_IP_V6_SRC, CTA_IP_V6_DST),
    };
    Some(Flow {
        to: address_of(find_attr(tuple, CTA_TUPLE_IP)?, destination)?,
        answers: (address_of(find_attr(reply, CTA_TUPLE_IP)?, source)?, answering),
        tuple: tuple.to_vec(),
        id: find_attr(attributes, CTA_ID)?.to_vec(),
    })
}

fn port_of(attributes: &[u8], kind: u16) -> Option<u16> {
    Some(u16::from_be_bytes(*find_attr(attributes, kind)?.first_chunk()?))
}

fn address_of(attributes: &[u8], kind: u16) -> Option<IpAddr> {
    let bytes = find_attr(attributes, kind)?;
    match kind {
        CTA_IP_V6_SRC | CTA_IP_V6_DST => Some(Ipv6Addr::from(*bytes.first_chunk::<16>()?).into()),
        _ => Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_messages_are_no_connection() {
        let mut message = Vec::new();
        filter(&mut message, Family::V6, 17, 53);
        assert_eq!(read(&message, Family::V6, 17, 53), None, "there is no answer in it");
        for length in 0..message.len() {
            assert_eq!(read(&message[..length], Family::V6, 17, 53), None);
        }
    }
}
