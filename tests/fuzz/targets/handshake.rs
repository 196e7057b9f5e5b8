//! What a process that is being started may say: any packets, cut anywhere, with any descriptors.

#![no_main]

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libfuzzer_sys::fuzz_target;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
    socketpair,
};
use vaquita_runtime::{Kind, StartHandle};

// The input is a list of packets: a byte with the number of descriptors (lower half) and the way of the start (upper
// bit of the first), two bytes of length, and that many bytes.
fuzz_target!(|data: &[u8]| {
    let before = open_descriptors();
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .expect("a socket pair");
    let mut rest = data;
    while let [head, low, high, tail @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(tail.len());
        let (packet, behind) = tail.split_at(length);
        rest = behind;
        if !send(theirs.as_fd(), packet, usize::from(head & 0x0f)) {
            break;
        }
    }
    // Half of the inputs end with a closed socket, the others with one that has no more to say.
    let held = data.first().is_some_and(|head| head & 0x40 != 0).then_some(&theirs);
    let held = held.map(|socket| socket.try_clone().expect("a descriptor"));
    drop(theirs);

    let handle = StartHandle::from_fd(ours);
    let passes = data.first().is_some_and(|head| head & 0x80 != 0);
    let mut listener: Option<OwnedFd> = None;
    let result = if passes {
        handle.wait_with(|fd| {
            listener = Some(fd);
            Ok(())
        })
    } else {
        handle.start()
    };
    if let Err(error) = result {
        let text = error.to_string();
        assert!(text.len() < 4096 && !text.contains(|c: char| c.is_control()), "{text:?}");
        assert!(
            !matches!(error.kind(), Kind::Exec(errno) | Kind::Kernel(errno) if errno.raw_os_error() == 0)
        );
    }
    drop((listener, held));
    assert_eq!(open_descriptors(), before, "a descriptor is left");
});

fn send(socket: BorrowedFd<'_>, packet: &[u8], count: usize) -> bool {
    let fds = vec![socket; count];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if count > 0 {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok()
}

/// The lowest free descriptor tells whether one was left: numbers are given out from below.
fn open_descriptors() -> i32 {
    use std::os::fd::AsRawFd;
    rustix::fs::open("/dev/null", rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())
        .expect("a descriptor")
        .as_raw_fd()
}
