//! The few requests of rtnetlink(7) that moving a link takes.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::Error;

/// A netlink socket of a network namespace.
pub(super) struct Route {
    socket: OwnedFd,
    sequence: u32,
}

/// A link of the namespace.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) index: i32,
    pub(super) name: String,
}

/// An address of a link, as it can be given to another one.
#[derive(Debug)]
pub(super) struct Address {
    family: u8,
    prefix: u8,
    flags: u32,
    /// Type and value of what is copied as it is.
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Route {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, sequence: 0 }
    }

    pub(super) fn links(&mut self) -> Result<Vec<Link>, Error> {
        let list = self.request(RTM_GETLINK, DUMP, &[0; 16]);
        let list = list.map_err(|errno| Error::kernel("sendmsg(<netlink>, RTM_GETLINK)", errno))?;
        Ok(list.iter().filter_map(|message| link(message)).collect())
    }

    /// Those of global scope that are not a protocol's: what the specification wants to be kept.
    pub(super) fn addresses(&mut self, index: i32) -> Result<Vec<Address>, Errno> {
        let list = self.request(RTM_GETADDR, DUMP, &[0; 8])?;
        Ok(list.iter().filter_map(|message| address(message, index)).collect())
    }

    /// Gives the link to another namespace, by another name.
    pub(super) fn move_link(&mut self, index: i32, name: &str, netns: &OwnedFd) -> Result<(), Errno> {
        let mut body = link_header(index, 0);
        let mut text = name.as_bytes().to_vec();
        text.push(0);
        attribute(&mut body, IFLA_IFNAME, &text);
        attribute(&mut body, IFLA_NET_NS_FD, &netns.as_raw_fd().to_ne_bytes());
        self.request(RTM_NEWLINK, ACK, &body).map(drop)
    }

    pub(super) fn set_up(&mut self, index: i32) -> Result<(), Errno> {
        self.request(RTM_NEWLINK, ACK, &link_header(index, IFF_UP)).map(drop)
    }

    pub(super) fn add(&mut self, index: i32, address: &Address) -> Result<(), Errno> {
        // The upper flags have an attribute of their own.
        let mut body = vec![address.family, address.prefix, 0, RT_SCOPE_UNIVERSE];
        body.extend(index.to_ne_bytes());
        attribute(&mut body, IFA_FLAGS, &address.flags.to_ne_bytes());
        for (kind, value) in &address.attributes {
            attribute(&mut body, *kind, value);
        }
        self.request(RTM_NEWADDR, ACK | NLM_F_CREATE | NLM_F_EXCL, &body).map(drop)
    }

    /// Sends a request and gives back the bodies of what is answered.
    fn request(&mut self, kind: u16, flags: u16, body: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
        self.sequence += 1;
        let length = u32::try_from(HEADER + body.len()).map_err(|_| Errno::MSGSIZE)?;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        rustix::io::retry_on_intr(|| rustix::net::send(&self.socket, &message, SendFlags::empty()))?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let (_, length) = rustix::io::retry_on_intr(|| {
                rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty())
            })?;
            if length == 0 {
                return Err(Errno::PROTO);
            }
            if self.take(&buffer[..length], &mut answers)? {
                return Ok(answers);
            }
        }
    }

    /// Adds the messages of one datagram to `answers`; true at the last one.
    fn take(&self, mut datagram: &[u8], answers: &mut Vec<Vec<u8>>) -> Result<bool, Errno> {
        while datagram.len() >= HEADER {
            let length = usize::try_from(word(datagram, 0)).unwrap_or(usize::MAX);
            let message = datagram.get(..length).filter(|_| length >= HEADER).ok_or(Errno::PROTO)?;
            let kind = u16::from_ne_bytes([message[4], message[5]]);
            datagram = datagram.get(align(length)..).unwrap_or_default();
            if word(message, 8) != self.sequence {
                continue;
            }
            let body = &message[HEADER..];
            match kind {
                NLMSG_DONE => return Ok(true),
                NLMSG_ERROR if body.len() >= 4 => {
                    let number = i32::from_ne_bytes([body[0], body[1], body[2], body[3]]);
                    return if number == 0 { Ok(true) } else { Err(Errno::from_raw_os_error(-number)) };
                }
                _ => answers.push(body.to_vec()),
            }
        }
        Ok(false)
    }
}

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const ACK: u16 = 4; // NLM_F_ACK
const DUMP: u16 = 0x300; // NLM_F_DUMP
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFF_UP: u32 = 1;
const IFA_LABEL: u16 = 3;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
/// What the kernel says of an address by itself: secondary, optimistic, duplicate, deprecated, tentative, permanent.
const IFA_F_STATE: u32 = 0x01 | 0x04 | 0x08 | 0x20 | 0x40 | IFA_F_PERMANENT;
const RT_SCOPE_UNIVERSE: u8 = 0;

fn align(length: usize) -> usize {
    length.saturating_add(3) & !3
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
}

/// `struct ifinfomsg`, with flags to be set.
fn link_header(index: i32, flags: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.resize(align(body.len()), 0);
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(align(body.len()), 0);
}

/// Types and values of the attributes behind a header of `from` bytes.
fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut list = Vec::new();
    while bytes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let Some(value) = bytes.get(4..length) else { break };
        // The upper two bits are flags.
        list.push((u16::from_ne_bytes([bytes[2], bytes[3]]) & 0x3fff, value));
        bytes = bytes.get(align(length)..).unwrap_or_default();
    }
    list
}

fn link(message: &[u8]) -> Option<Link> {
    let attributes = attributes(message.get(16..)?);
    let (_, name) = attributes.iter().find(|(kind, _)| *kind == IFLA_IFNAME)?;
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    let index = i32::try_from(word(message, 4)).ok()?;
    Some(Link { index, name: String::from_utf8_lossy(name).into_owned() })
}

fn address(message: &[u8], index: i32) -> Option<Address> {
    let attributes = attributes(message.get(8..)?);
    let found = attributes.iter().find(|(kind, _)| *kind == IFA_FLAGS);
    let flags = found.map_or_else(|| u32::from(message[2]), |(_, value)| word(value, 0));
    let is_ours = i32::try_from(word(message, 4)) == Ok(index);
    if !is_ours || message[3] != RT_SCOPE_UNIVERSE || flags & IFA_F_PERMANENT == 0 {
        return None;
    }
    // A label begins with the link's name on the host, and what is permanent has no lifetime.
    let dropped = [IFA_FLAGS, IFA_LABEL, IFA_CACHEINFO];
    let kept = attributes.iter().filter(|(kind, _)| !dropped.contains(kind));
    Some(Address {
        family: message[0],
        prefix: message[1],
        flags: flags & !IFA_F_STATE,
        attributes: kept.map(|(kind, value)| (*kind, value.to_vec())).collect(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn attributes_are_read_as_written() {
        let mut body = vec![0; 8];
        attribute(&mut body, 2, &[1, 2, 3]);
        attribute(&mut body, 0x8000 | 8, &[]);
        attribute(&mut body, 3, b"x\0");
        assert_eq!(body.len() % 4, 0);
        assert_eq!(attributes(&body[8..]), [(2, &[1, 2, 3][..]), (8, &[][..]), (3, b"x\0")]);
    }

    #[test]
    fn addresses_of_a_protocol_or_of_limited_scope_are_left() {
        let message = |index: u32, scope: u8, flags: u32| {
            let mut body = vec![2, 24, 0x80, scope];
            body.extend(index.to_ne_bytes());
            attribute(&mut body, 2, &[192, 0, 2, 9]);
            attribute(&mut body, IFA_LABEL, b"out:x\0");
            attribute(&mut body, IFA_FLAGS, &flags.to_ne_bytes());
            body
        };
        let kept = address(&message(7, RT_SCOPE_UNIVERSE, IFA_F_PERMANENT | 0x40 | 0x200), 7).unwrap();
        assert_eq!((kept.family, kept.prefix, kept.flags), (2, 24, 0x200));
        assert_eq!(kept.attributes, [(2, vec![192, 0, 2, 9])]);
        assert!(address(&message(7, RT_SCOPE_UNIVERSE, 0), 7).is_none(), "has a lifetime");
        assert!(address(&message(7, 253, IFA_F_PERMANENT), 7).is_none(), "of the link");
        assert!(address(&message(8, RT_SCOPE_UNIVERSE, IFA_F_PERMANENT), 7).is_none(), "of another link");
    }

    proptest! {
        #[test]
        fn any_answer_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let (socket, _) = crate::handshake::pair().unwrap();
            let mut answers = Vec::new();
            let _ = Route { socket, sequence: 0 }.take(&bytes, &mut answers);
            let _ = (link(&bytes), address(&bytes, 0));
        }
    }
}
