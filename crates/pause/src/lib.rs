//! The program that holds a pod's namespaces, as bytes.

/// A static ELF executable that waits for SIGTERM or SIGINT and reaps the orphans of a shared PID namespace.
pub const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));
