//! Messages over a socket.
