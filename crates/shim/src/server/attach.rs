//! Clients that look on and type: copies of a container's output, ways into its standard input, its window.

use std::io::{Cursor, Write as _};
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::termios::Winsize;

use super::Server;
use super::connection::Asker;
use super::container::{Container, Phase};
use crate::log::Stream;
use crate::wire::Response;
use crate::{AttachRequest, Error, Kind};

/// A copy of a stream for somebody who looks on, who gets what there is room for: nobody waits for them.
#[derive(Debug)]
pub(super) struct Tap {
    token: u64,
    fd: OwnedFd,
    /// How many bytes it holds that are not read.
    size: u64,
    /// Bytes that found no room since something was written last.
    lost: u64,
}

/// Where a container's standard input comes from.
#[derive(Debug)]
pub(super) enum Stdin {
    /// From nowhere: `/dev/null`, or nobody can write to it any more.
    Closed,
    /// From a pipe whose end we hold open. With `once` the first client that wants it gets it from us, so that the
    /// container reads an end when that client goes, however it goes.
    Pipe { end: OwnedFd, once: bool },
    /// From its terminal. It was asked for unless `open` is false.
    Terminal { console: OwnedFd, open: bool },
}

/// How many clients may look at one stream at a time.
const MAX_TAPS: usize = 16;
/// How far a client may be behind before it loses output, in bytes; 64 KiB where the user has too many pipes.
const SLACK: usize = 1024 * 1024;

impl Tap {
    /// Writes what there is room for. False if nobody reads there any more. After a loss nothing is written until half of
    /// what was there is read: better one gap than many.
    pub(super) fn write(&mut self, output: &[u8]) -> bool {
        if self.lost > 0 {
            match rustix::io::ioctl_fionread(&self.fd) {
                Ok(unread) if unread > self.size / 2 => {}
                _ => self.tell_loss(),
            }
        }
        let written = if self.lost > 0 { Ok(0) } else { self.put(output) };
        self.lost += (output.len() - written.unwrap_or_default()) as u64;
        written.is_ok()
    }

    /// Writes in the place of what is missing how much it is.
    fn tell_loss(&mut self) {
        let mut note = Cursor::new([0; 80]);
        // It fits, and is short enough to be written whole or not at all (PIPE_BUF).
        let _ = write!(note, "\r\n[{} bytes are missing here: read faster]\r\n", self.lost);
        let length = usize::try_from(note.position()).unwrap_or_default();
        if self.put(&note.get_ref()[..length]).is_ok_and(|written| written > 0) {
            self.lost = 0;
        }
    }

    /// How much of `bytes` was written.
    fn put(&self, bytes: &[u8]) -> Result<usize, Errno> {
        match rustix::io::retry_on_intr(|| rustix::io::write(&self.fd, bytes)) {
            Err(Errno::AGAIN) => Ok(0),
            result => result,
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if self.lost > 0 {
            self.tell_loss();
        }
    }
}

impl Stdin {
    /// A way into it for a client, if there is one.
    fn way_in(&mut self) -> Result<Option<OwnedFd>, Error> {
        let end = match self {
            Self::Closed | Self::Terminal { open: false, .. } => return Ok(None),
            Self::Pipe { once: true, .. } => match std::mem::replace(self, Self::Closed) {
                Self::Pipe { end, .. } => return Ok(Some(end)),
                _ => return Ok(None),
            },
            Self::Pipe { end, .. } | Self::Terminal { console: end, .. } => end,
        };
        end.try_clone().map(Some).map_err(|error| Error::io(error, "dup of standard input"))
    }
}

impl Server {
    /// Answers with the streams that were asked for and are there.
    pub(super) fn attach(&mut self, asker: Asker, request: &AttachRequest) -> Result<(), Error> {
        let at = self.find(&request.container)?;
        self.refuse_unless_alive(at)?;
        let mut taps = Vec::new();
        for (stream, wanted) in [(Stream::Stdout, request.stdout), (Stream::Stderr, request.stderr)] {
            // A terminal has one stream, and its output is nobody's standard error.
            let is_there = stream == Stream::Stdout || !self.containers[at].has_terminal();
            taps.push(if wanted && is_there { Some(self.tap(at, stream)?) } else { None });
        }
        let container = &mut self.containers[at];
        // Last, because it may be given away for good.
        let stdin = if request.stdin { container.stdin.way_in()? } else { None };
        let mut fds = vec![stdin];
        for (stream, tap) in [Stream::Stdout, Stream::Stderr].into_iter().zip(taps) {
            let Some((ours, theirs)) = tap else {
                fds.push(None);
                continue;
            };
            fds.push(Some(theirs));
            // A stream that has ended goes on ending.
            if let Some(output) = container.outputs.iter_mut().find(|output| output.stream() == stream) {
                output.taps.push(ours);
            }
        }
        let present = [0, 1, 2].map(|at: usize| fds[at].is_some());
        self.reply(asker, &Response::Attached { present }, fds.into_iter().flatten().collect());
        Ok(())
    }

    /// Sets the size of a container's terminal, of which its processes hear by SIGWINCH.
    pub(super) fn resize(&mut self, id: &str, width: u16, height: u16) -> Result<(), Error> {
        let at = self.find(id)?;
        self.refuse_unless_alive(at)?;
        let Stdin::Terminal { console, .. } = &self.containers[at].stdin else {
            return Err(Error::new(Kind::Invalid, format!("container {id} has no terminal")));
        };
        let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(console, size)
            .map_err(|errno| Error::kernel(errno, format_args!("ioctl(TIOCSWINSZ) of container {id}")))
    }

    /// Who looked on by the tap of that token, if there is one, does not any more.
    pub(super) fn drop_tap(&mut self, token: u64) -> bool {
        for output in self.containers.iter_mut().flat_map(|container| &mut container.outputs) {
            let Some(at) = output.taps.iter().position(|tap| tap.token == token) else { continue };
            let tap = output.taps.swap_remove(at);
            let _ = epoll::delete(&self.epoll, &tap.fd);
            return true;
        }
        false
    }

    /// A copy of a stream from now on: our end and the client's.
    fn tap(&mut self, at: usize, stream: Stream) -> Result<(Tap, OwnedFd), Error> {
        let container = &self.containers[at];
        let output = container.outputs.iter().find(|output| output.stream() == stream);
        if output.is_some_and(|output| output.taps.len() >= MAX_TAPS) {
            let message = format!("{MAX_TAPS} clients are attached to container {} already", container.id);
            return Err(Error::new(Kind::Busy, message));
        }
        let (theirs, ours) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
            .map_err(|errno| Error::kernel(errno, "pipe2"))?;
        let size = rustix::pipe::fcntl_setpipe_size(&ours, SLACK)
            .or_else(|_| rustix::pipe::fcntl_getpipe_size(&ours))
            .map_err(|errno| Error::kernel(errno, "fcntl(F_GETPIPE_SZ)"))?;
        let token = self.new_token();
        // That the other end was closed is told unasked.
        epoll::add(&self.epoll, &ours, EventData::new_u64(token), EventFlags::empty())
            .map_err(|errno| Error::kernel(errno, "epoll_ctl(EPOLL_CTL_ADD)"))?;
        Ok((Tap { token, fd: ours, size: size as u64, lost: 0 }, theirs))
    }

    fn refuse_unless_alive(&self, at: usize) -> Result<(), Error> {
        let container = &self.containers[at];
        match container.phase {
            Phase::Creating => Err("is not made yet"),
            Phase::Stopped(_) => Err("has ended"),
            Phase::Created(_)
            | Phase::Preparing(_)
            | Phase::Launching
            | Phase::Starting(_)
            | Phase::Running => Ok(()),
        }
        .map_err(|why| Error::new(Kind::State, format!("container {} {why}", container.id)))
    }
}

impl Container {
    fn has_terminal(&self) -> bool {
        matches!(self.stdin, Stdin::Terminal { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_read_loses_output_and_is_told() {
        let (theirs, ours) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let size = rustix::pipe::fcntl_getpipe_size(&ours).unwrap();
        let mut tap = Tap { token: 0, fd: ours, size: size as u64, lost: 0 };
        let mut buffer = vec![0; size];
        let mut read = |length| {
            let read = rustix::io::read(&theirs, &mut buffer[..length]).unwrap();
            String::from_utf8(buffer[..read].to_vec()).unwrap()
        };
        assert!(tap.write(&vec![b'a'; size - 10]));
        assert!(tap.write(b"does not fit"));
        assert!(tap.write(b"lost"));
        assert_eq!(read(size / 4).len(), size / 4);
        assert!(tap.write(b"lost, too"));
        assert!(read(size).ends_with("aaa"));
        assert!(tap.write(b"seen"));
        assert_eq!(read(size), "\r\n[25 bytes are missing here: read faster]\r\nseen");
        assert!(tap.write(&vec![b'a'; size - 100]));
        assert!(tap.write(&vec![b'b'; size]));
        let unseen = tap.lost;
        read(size / 4);
        drop(tap);
        assert!(read(size).ends_with(&format!("aaa\r\n[{unseen} bytes are missing here: read faster]\r\n")));
        let (theirs, ours) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let mut tap = Tap { token: 0, fd: ours, size: 0, lost: 0 };
        drop(theirs);
        assert!(!tap.write(b"to nobody"));
    }
}
