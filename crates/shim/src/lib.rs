//! The per-pod supervisor, its wire protocol and the client for it.
