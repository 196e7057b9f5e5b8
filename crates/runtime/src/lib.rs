//! The OCI runtime: specification, plan, process.
