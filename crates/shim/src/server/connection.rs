//! Clients: several at a time, none of them waited for.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::{Server, complain};
use crate::transport::{self, Outgoing, Stop};
use crate::wire::{Failure, Response};
use crate::{Error, Kind};

/// A client.
#[derive(Debug)]
pub(super) struct Connection {
    token: u64,
    socket: OwnedFd,
    /// What the client has not taken yet.
    queue: VecDeque<Outgoing>,
    /// We want to hear when the client takes more.
    blocked: bool,
}

/// Who waits for an answer. They may be gone when it is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    token: u64,
    number: u32,
}

impl Asker {
    /// Who does not want an answer.
    pub(super) const NOBODY: Self = Self { token: 0, number: 0 };
}

/// How many clients there may be. A daemon, its successor and a debugger are three.
const MAX_CONNECTIONS: usize = 32;
/// How many messages a client may leave unread before it is cut off. It finds everything in the state when it returns.
const MAX_QUEUE: usize = 1024;

impl Server {
    pub(super) fn accept(&mut self) {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = match rustix::net::accept_with(&self.listener, flags) {
                Ok(socket) => socket,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(_) => return,
            };
            if self.connections.len() >= MAX_CONNECTIONS || !transport::is_trusted(&socket) {
                complain(format_args!("turned a client away"));
                continue;
            }
            let token = self.new_token();
            if self.watch(&socket, token).is_ok() {
                self.connections.push(Connection { token, socket, queue: VecDeque::new(), blocked: false });
            }
        }
    }

    /// Something happened to the connection of that token, if there is one.
    pub(super) fn serve_connection(&mut self, token: u64, flags: EventFlags) -> bool {
        let Some(at) = self.connections.iter().position(|connection| connection.token == token) else {
            return false;
        };
        if flags.contains(EventFlags::OUT) && !self.flush(at) {
            return true;
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            self.receive(at, token);
        }
        true
    }

    fn receive(&mut self, at: usize, token: u64) {
        // The buffer leaves `self` while a request that borrows from it is served.
        let mut buffer = std::mem::take(&mut self.receive_buffer);
        match transport::receive(&self.connections[at].socket, &mut buffer) {
            Ok(incoming) => {
                let asker = Asker { token, number: incoming.header.number };
                self.serve(asker, incoming);
            }
            Err(Stop::Empty) => {}
            Err(Stop::Closed) => self.disconnect(at),
            Err(Stop::Malformed(why)) => {
                complain(format_args!("cut a client off that sent {why}"));
                self.disconnect(at);
            }
        }
        self.receive_buffer = buffer;
    }

    pub(super) fn reply(&mut self, asker: Asker, response: &Response, fds: Vec<OwnedFd>) {
        if let Some(at) = self.connections.iter().position(|connection| connection.token == asker.token) {
            self.send(at, response.code(), asker.number, &response.encode(), fds);
        }
    }

    pub(super) fn reply_done(&mut self, asker: Asker) {
        self.reply(asker, &Response::Done, Vec::new());
    }

    pub(super) fn reply_error(&mut self, asker: Asker, error: &Error) {
        self.reply(asker, &Response::Failed(Failure::from(error)), Vec::new());
    }

    pub(super) fn reply_result(&mut self, asker: Asker, result: Result<(), Error>) {
        match result {
            Ok(()) => self.reply_done(asker),
            Err(error) => self.reply_error(asker, &error),
        }
    }

    /// Sends now, or as soon as the client reads.
    pub(super) fn send(&mut self, at: usize, code: u8, number: u32, body: &[u8], fds: Vec<OwnedFd>) {
        let connection = &mut self.connections[at];
        match Outgoing::new(code, number, body, fds) {
            Ok(outgoing) => connection.queue.push_back(outgoing),
            Err(errno) => {
                let error = Error::new(Kind::Kernel(errno), format!("cannot send an answer: {errno}"));
                complain(format_args!("{error}"));
                self.disconnect(at);
                return;
            }
        }
        if connection.queue.len() > MAX_QUEUE {
            complain(format_args!("cut a client off that does not read"));
            self.disconnect(at);
        } else if connection.queue.len() == 1 {
            self.flush(at);
        }
    }

    /// Sends what is queued as far as the client takes it. False if the client is gone.
    fn flush(&mut self, at: usize) -> bool {
        let connection = &mut self.connections[at];
        while let Some(outgoing) = connection.queue.front() {
            match outgoing.send(&connection.socket) {
                Ok(()) => drop(connection.queue.pop_front()),
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.disconnect(at);
                    return false;
                }
            }
        }
        let blocked = !connection.queue.is_empty();
        if blocked != connection.blocked {
            connection.blocked = blocked;
            let interest = if blocked { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            let data = EventData::new_u64(connection.token);
            let _ = epoll::modify(&self.epoll, &connection.socket, data, interest);
        }
        true
    }

    /// Forgets a client. What it asked for goes on.
    fn disconnect(&mut self, at: usize) {
        let connection = self.connections.swap_remove(at);
        let _ = epoll::delete(&self.epoll, &connection.socket);
    }
}
