//! What a container writes: from its pipes, or its terminal, into the log.

use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use vaquita_sys::memory::Pages;

use super::attach::Tap;
use super::{Server, monotonic_ms, now_ns};
use crate::Error;
use crate::log::{Batch, LogFile, Splitter, Stream, Timestamp};

/// One stream of a container.
#[derive(Debug)]
pub(super) struct Output {
    token: u64,
    fd: OwnedFd,
    splitter: Splitter,
    /// When something was read last.
    last_read_ms: i64,
    pace: Pace,
    /// Whether the pipe was widened; none while that was not tried.
    wide: Option<bool>,
    /// Who looks on.
    pub(super) taps: Vec<Tap>,
}

/// How closely a stream is followed. A process that writes line by line would wake us for each: that makes both of us
/// several times slower than letting some lines gather.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Pace {
    /// Whatever is written is read at once.
    Close,
    /// The writer is busy: the pipe is wide, and looked at once a millisecond.
    Resting,
    /// As close, for what cannot be made wide.
    AlwaysClose,
}

/// The memory that output passes through; one for all containers, given back while there is no output.
#[derive(Debug)]
pub(super) struct Buffers {
    input: Pages,
    batch: Pages,
}

/// What one read brought.
enum Read {
    Some(usize),
    /// Nothing more for now.
    Empty,
    /// Nothing more ever.
    End,
}

/// As much as a pipe holds.
const INPUT: usize = 64 * 1024;
/// Room for what that becomes with lines of usual length; shorter ones take several rounds.
const BATCH: usize = 128 * 1024;
/// A read of less than this from a busy writer is not worth having been woken for.
const WORTHWHILE: usize = INPUT / 2;
/// What a pipe is widened to, so that it does not fill up in the time between two looks, and so that who writes much at once
/// and we can work at the same time (the usual `pipe-max-size`).
const WIDE: usize = 1024 * 1024;
/// The time between two looks.
const REST_MS: i64 = 1;
/// How much is read at most after the main process has ended while others still write: more than any pipe holds.
const LAST_READ: usize = 1024 * 1024;

impl Buffers {
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self { input: Pages::new(INPUT)?, batch: Pages::new(BATCH)? })
    }

    pub(super) fn release(&mut self) {
        self.input.release();
        self.batch.release();
    }
}

impl Output {
    pub(super) fn new(token: u64, fd: OwnedFd, stream: Stream) -> Self {
        let splitter = Splitter::new(stream);
        Self { token, fd, splitter, last_read_ms: 0, pace: Pace::Close, wide: None, taps: Vec::new() }
    }

    pub(super) fn stream(&self) -> Stream {
        self.splitter.stream()
    }

    /// Moves what one read brings into the log.
    fn pump(&mut self, log: Option<&mut LogFile>, buffers: &mut Buffers) -> Read {
        let read = match rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut buffers.input[..])) {
            Ok(0) => return Read::End,
            Ok(read) => read,
            Err(Errno::AGAIN) => return Read::Empty,
            // EIO is how the master of a terminal says that nobody has the other side open.
            Err(_) => return Read::End,
        };
        self.taps.retain_mut(|tap| tap.write(&buffers.input[..read]));
        if let Some(log) = log {
            let now = Timestamp::from_unix_ns(now_ns());
            let mut batch = Batch::new(&mut buffers.batch);
            let mut used = 0;
            while used < read {
                used += self.splitter.feed(&now, &buffers.input[used..read], &mut batch);
                log.write(batch.records());
                batch.clear();
            }
        }
        Read::Some(read)
    }

    /// Writes an unfinished line.
    fn finish_line(&mut self, log: Option<&mut LogFile>, buffers: &mut Buffers) {
        if let Some(log) = log {
            let mut batch = Batch::new(&mut buffers.batch);
            self.splitter.end(&Timestamp::from_unix_ns(now_ns()), &mut batch);
            log.write(batch.records());
        }
        self.splitter.shrink();
    }
}

impl Output {
    /// After so much was read: whether this is to be left alone for a moment.
    fn wants_rest(&mut self, read: usize) -> bool {
        let now = monotonic_ms();
        let is_busy = now - self.last_read_ms <= REST_MS;
        self.last_read_ms = now;
        if !is_busy {
            return false;
        }
        if read >= WORTHWHILE {
            // Whoever fills the pipe at once would wait for us each time, and we for it.
            self.widen();
            return false;
        }
        if self.pace != Pace::Close {
            return false;
        }
        let widened = self.widen();
        self.pace = if widened { Pace::Resting } else { Pace::AlwaysClose };
        widened
    }

    /// Makes room for more in the pipe. Terminals cannot, and users with too many pipes may not.
    fn widen(&mut self) -> bool {
        *self.wide.get_or_insert_with(|| rustix::pipe::fcntl_setpipe_size(&self.fd, WIDE).is_ok())
    }

    /// Reads what has gathered: how much, or none if the stream has ended.
    fn catch_up(&mut self, mut log: Option<&mut LogFile>, buffers: &mut Buffers) -> Option<usize> {
        let mut total = 0;
        while total < 2 * WIDE {
            match self.pump(log.as_deref_mut(), buffers) {
                Read::Some(read) => {
                    total += read;
                    if read < INPUT {
                        break;
                    }
                }
                Read::Empty => break,
                Read::End => return None,
            }
        }
        Some(total)
    }
}

impl Server {
    /// Looks at the streams that were left alone for a moment, if it is over.
    pub(super) fn wake_outputs(&mut self) {
        let now = monotonic_ms();
        for container in &mut self.containers {
            for at in (0..container.outputs.len()).rev() {
                let output = &mut container.outputs[at];
                if output.pace != Pace::Resting || now - output.last_read_ms < REST_MS {
                    continue;
                }
                output.last_read_ms = now;
                match output.catch_up(container.log.as_mut(), &mut self.buffers) {
                    // Less is not worth the looks; more, and the writer waits for them.
                    Some(total) if (WORTHWHILE / 8..WIDE / 4 * 3).contains(&total) => {}
                    Some(_) => {
                        // If that cannot be, it goes on as it is.
                        let data = EventData::new_u64(output.token);
                        if epoll::add(&self.epoll, &output.fd, data, EventFlags::IN).is_ok() {
                            output.pace = Pace::Close;
                        }
                    }
                    None => {
                        output.finish_line(container.log.as_mut(), &mut self.buffers);
                        container.outputs.swap_remove(at);
                    }
                }
            }
        }
    }

    /// How long streams may be left alone, if there are any.
    pub(super) fn rest(&self) -> Option<i64> {
        let mut outputs = self.containers.iter().flat_map(|container| &container.outputs);
        outputs.any(|output| output.pace == Pace::Resting).then_some(REST_MS)
    }

    /// Something can be read from the stream of that token, if there is one.
    pub(super) fn pump_output(&mut self, token: u64) -> bool {
        for container in &mut self.containers {
            let Some(at) = container.outputs.iter().position(|output| output.token == token) else {
                continue;
            };
            let output = &mut container.outputs[at];
            let mut read = output.pump(container.log.as_mut(), &mut self.buffers);
            let mut total = 0;
            // There is more. Who else wants something gets its turn after what a wide pipe holds.
            while let Read::Some(some) = read
                && output.wide == Some(true)
                && some == INPUT
                && total < WIDE
            {
                total += some;
                read = output.pump(container.log.as_mut(), &mut self.buffers);
            }
            match read {
                Read::Some(read) if output.wants_rest(total + read) => {
                    // Were it only watched for nothing, each write would still cost the writer a call to see that: a tenth
                    // of its time. The end is seen with the next look.
                    let _ = epoll::delete(&self.epoll, &output.fd);
                }
                Read::Some(_) | Read::Empty => {}
                Read::End => {
                    output.finish_line(container.log.as_mut(), &mut self.buffers);
                    let output = container.outputs.swap_remove(at);
                    let _ = epoll::delete(&self.epoll, &output.fd);
                }
            }
            return true;
        }
        false
    }

    /// The container's main process has ended: all that it wrote goes into the log now. All of that is in the pipe or
    /// terminal already, so whatever other processes go on writing, this ends when the pipe is empty, or when more was
    /// read than it can have held. A stream that others still have open stays open.
    pub(super) fn drain(&mut self, container: usize) {
        let container = &mut self.containers[container];
        let mut left = std::mem::take(&mut container.outputs);
        left.retain_mut(|output| {
            let mut total = 0;
            let ended = loop {
                match output.pump(container.log.as_mut(), &mut self.buffers) {
                    Read::Some(read) => total += read,
                    Read::Empty => break false,
                    Read::End => break true,
                }
                if total >= LAST_READ {
                    break false;
                }
            };
            output.finish_line(container.log.as_mut(), &mut self.buffers);
            // Who looks on at the container sees the end, too.
            output.taps = Vec::new();
            if ended {
                let _ = epoll::delete(&self.epoll, &output.fd);
            }
            !ended
        });
        container.outputs = left;
    }

    /// Closes the streams of a container that is about to be forgotten, with what is in them.
    pub(super) fn close_outputs(&mut self, container: usize) {
        self.drain(container);
        for output in self.containers[container].outputs.drain(..) {
            let _ = epoll::delete(&self.epoll, &output.fd);
        }
    }
}
