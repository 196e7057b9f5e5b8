//! Netlink requests: many in one message, an answer checked for each.

use std::os::fd::OwnedFd;

use netlink_bindings::utils::{find_attr, nla_align_up};
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags};

use crate::Error;

/// `NLM_F_CREATE | NLM_F_EXCL`: make it, and it must not be there yet.
pub(crate) const CREATE_NEW: u16 = 0x600;
/// `NLM_F_CREATE`: make it unless it is there.
pub(crate) const CREATE: u16 = 0x400;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_MULTI: u16 = 2;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// The answer's copy of the request was left out (NETLINK_CAP_ACK).
const NLM_F_CAPPED: u16 = 0x100;
/// The answer has attributes (NETLINK_EXT_ACK).
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;
const HEADER: usize = 16;
/// The kernel fills a dump's datagram up to 32 KiB when the reader has room for it.
const ROOM: usize = 32 * 1024;

/// Requests for one `send`, in order. Each is answered.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    asked: Vec<String>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds one request. `asked` is what an error will say was asked; `body` writes family header and attributes.
    pub(crate) fn push(&mut self, kind: u16, flags: u16, asked: String, body: impl FnOnce(&mut Vec<u8>)) {
        self.raw(kind, flags | NLM_F_ACK, body);
        self.asked.push(asked);
    }

    pub(crate) fn len(&self) -> usize {
        self.asked.len()
    }

    /// What was asked by the request with this sequence number, which counts from 1.
    pub(crate) fn asked(&self, sequence: u32) -> &str {
        let index = (sequence as usize).checked_sub(1);
        index.and_then(|index| self.asked.get(index)).map_or("netlink batch", String::as_str)
    }

    /// Puts `begin` before and `end` after all requests: nfnetlink's marks of a transaction, never answered on success.
    ///
    /// Both have sequence number 0.
    pub(crate) fn enclose(&mut self, begin: u16, end: u16, body: &[u8]) {
        self.begin(begin, body);
        self.message(end, 0, 0, |bytes| bytes.extend_from_slice(body));
    }

    /// Only the first mark: the transaction is checked and then dropped.
    pub(crate) fn begin(&mut self, begin: u16, body: &[u8]) {
        let requests = std::mem::take(&mut self.bytes);
        self.message(begin, 0, 0, |bytes| bytes.extend_from_slice(body));
        self.bytes.extend_from_slice(&requests);
    }

    fn raw(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Vec<u8>)) {
        let sequence = u32::try_from(self.asked.len() + 1).unwrap_or(u32::MAX);
        self.message(kind, flags, sequence, body);
    }

    fn message(&mut self, kind: u16, flags: u16, sequence: u32, body: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; HEADER]);
        body(&mut self.bytes);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes.resize(start + nla_align_up(self.bytes.len() - start), 0);
        let header = &mut self.bytes[start..start + HEADER];
        header[0..4].copy_from_slice(&length.to_ne_bytes());
        header[4..6].copy_from_slice(&kind.to_ne_bytes());
        header[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        header[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// A netlink socket of the network namespace in which it was opened. One operation at a time.
///
/// Those of rtnetlink are opened for an operation each, which costs some microseconds, so that pods do not wait for each
/// other's.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
}

/// One message of an answer: its type and what follows the header.
#[derive(Debug)]
struct Answer<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Socket {
    /// For links, addresses and routes.
    pub(crate) fn route() -> Result<Self, Error> {
        Ok(Self { fd: vaquita_sys::netlink::socket(None)? })
    }

    /// For nftables.
    pub(crate) fn netfilter() -> Result<Self, Error> {
        Ok(Self { fd: vaquita_sys::netlink::socket(Some(net::netlink::NETFILTER))? })
    }

    /// Sends the batch and reads all answers. The error is the first one; requests after it may have been carried out
    /// unless the batch is a transaction.
    pub(crate) fn run(&self, batch: &Batch) -> Result<(), Error> {
        self.send(&batch.bytes, batch.asked(1))?;
        let mut buffer = vec![0; ROOM];
        let mut failure = None;
        let last = batch.len() as u32;
        loop {
            let length = match self.receive(&mut buffer) {
                Ok(length) => length,
                Err(errno) => return Err(failure.unwrap_or_else(|| unanswered(batch, errno))),
            };
            for answer in answers(&buffer[..length]) {
                if answer.kind != NLMSG_ERROR {
                    continue;
                }
                if let Some((errno, note)) = refusal(&answer) {
                    let error = Error::kernel(batch.asked(answer.sequence), errno, note.as_deref());
                    failure.get_or_insert(error);
                }
                // A refusal of the whole transaction carries the number of its first mark and comes before the rest, or alone.
                if answer.sequence == last {
                    return failure.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Asks for a dump, or for one object when `flags` has no NLM_F_DUMP; gives each message to `each`.
    pub(crate) fn dump(
        &self,
        kind: u16,
        asked: &str,
        body: impl FnOnce(&mut Vec<u8>),
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<(), Error> {
        let mut batch = Batch::new();
        batch.raw(kind, NLM_F_DUMP, body);
        self.send(&batch.bytes, asked)?;
        let mut buffer = vec![0; ROOM];
        loop {
            let length = self.receive(&mut buffer).map_err(|errno| Error::kernel(asked, errno, None))?;
            for answer in answers(&buffer[..length]) {
                match answer.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let (errno, note) = refusal(&answer).unwrap_or((Errno::PROTO, None));
                        return Err(Error::kernel(asked, errno, note.as_deref()));
                    }
                    kind => each(kind, answer.body),
                }
                if answer.flags & NLM_F_MULTI == 0 {
                    return Ok(());
                }
            }
        }
    }

    /// Asks for one object. `None` when the kernel has none.
    pub(crate) fn find<T>(
        &self,
        kind: u16,
        asked: &str,
        body: impl FnOnce(&mut Vec<u8>),
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, Error> {
        let mut batch = Batch::new();
        batch.raw(kind, 0, body);
        self.send(&batch.bytes, asked)?;
        let mut buffer = vec![0; ROOM];
        let length = self.receive(&mut buffer).map_err(|errno| Error::kernel(asked, errno, None))?;
        let Some(answer) = answers(&buffer[..length]).next() else {
            return Err(Error::kernel(asked, Errno::PROTO, Some("an empty answer")));
        };
        match (answer.kind, refusal(&answer)) {
            (NLMSG_ERROR, Some((Errno::NODEV | Errno::NOENT, _))) => Ok(None),
            (NLMSG_ERROR, Some((errno, note))) => Err(Error::kernel(asked, errno, note.as_deref())),
            (NLMSG_ERROR, None) => {
                Err(Error::kernel(asked, Errno::PROTO, Some("an answer without an object")))
            }
            _ => Ok(Some(read(answer.body))),
        }
    }

    fn send(&self, bytes: &[u8], asked: &str) -> Result<(), Error> {
        // Answers that a failed operation did not wait for are not this one's.
        while matches!(self.receive(&mut []), Ok(_) | Err(Errno::MSGSIZE)) {}
        net::send(&self.fd, bytes, SendFlags::empty())
            .map(drop)
            .map_err(|errno| Error::kernel(asked, errno, None))
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        // The kernel carries requests out within `send`, so an answer that is not there by now never comes.
        let (length, full) = net::recv(&self.fd, buffer, RecvFlags::DONTWAIT | RecvFlags::TRUNC)?;
        if full > length { Err(Errno::MSGSIZE) } else { Ok(length) }
    }
}

fn unanswered(batch: &Batch, errno: Errno) -> Error {
    Error::kernel(batch.asked(1), errno, Some("the kernel did not answer"))
}

/// The messages in a datagram. A broken length ends the walk.
fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<HEADER>()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let message = bytes.get(..length)?;
        let answer = Answer {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            body: message.get(HEADER..)?,
        };
        bytes = bytes.get(nla_align_up(length)..).unwrap_or_default();
        Some(answer)
    })
}

/// The errno of an NLMSG_ERROR and the kernel's text; `None` when it is an acknowledgement or something else.
fn refusal(answer: &Answer<'_>) -> Option<(Errno, Option<String>)> {
    let code = i32::from_ne_bytes(*answer.body.first_chunk::<4>()?);
    if answer.kind != NLMSG_ERROR || code == 0 {
        return None;
    }
    let errno = match code {
        -4095..0 => Errno::from_raw_os_error(-code),
        _ => Errno::PROTO,
    };
    let note = (answer.flags & NLM_F_ACK_TLVS != 0).then(|| {
        let echoed = answer.body.get(4..8).map_or(0, |length| {
            let whole = u32::from_ne_bytes([length[0], length[1], length[2], length[3]]) as usize;
            if answer.flags & NLM_F_CAPPED != 0 { HEADER } else { nla_align_up(whole) }
        });
        let attributes = answer.body.get(4 + echoed..).unwrap_or_default();
        let text = find_attr(attributes, NLMSGERR_ATTR_MSG)?;
        Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
    });
    Some((errno, note.flatten()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_numbers_and_aligns_its_messages() {
        let mut batch = Batch::new();
        batch.push(16, CREATE, "one".to_owned(), |bytes| bytes.extend_from_slice(&[1, 2, 3]));
        batch.push(17, 0, "two".to_owned(), |_| {});
        batch.enclose(100, 101, &[9; 4]);
        let seen: Vec<_> =
            answers(&batch.bytes).map(|m| (m.kind, m.flags, m.sequence, m.body.len())).collect();
        assert_eq!(seen, [(100, 1, 0, 4), (16, 0x405, 1, 3), (17, 5, 2, 0), (101, 1, 0, 4)]);
        assert_eq!((batch.asked(0), batch.asked(1), batch.asked(2)), ("netlink batch", "one", "two"));
    }

    #[test]
    fn a_refusal_prints_what_was_asked_and_what_the_kernel_said() {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&(-17_i32).to_ne_bytes());
        bytes.extend_from_slice(&[0; HEADER]);
        bytes.extend_from_slice(&[8, 0, 1, 0]);
        bytes.extend_from_slice(b"abc\0");
        let answer =
            Answer { kind: NLMSG_ERROR, flags: NLM_F_CAPPED | NLM_F_ACK_TLVS, sequence: 1, body: &bytes };
        let (errno, note) = refusal(&answer).unwrap();
        let error = Error::kernel("RTM_NEWLINK veth vq0", errno, note.as_deref());
        assert_eq!(error.to_string(), "RTM_NEWLINK veth vq0: EEXIST (File exists): abc");
        assert_eq!(error.kind(), crate::Kind::Exists);
    }

    #[test]
    fn broken_answers_end_the_walk() {
        assert_eq!(answers(&[0; 15]).count(), 0);
        assert_eq!(answers(&[0; 16]).count(), 0, "a length below the header");
        assert_eq!(answers(&[255; 64]).count(), 0, "a length beyond the datagram");
    }
}
