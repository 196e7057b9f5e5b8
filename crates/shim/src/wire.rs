//! The protocol between client and shim.
