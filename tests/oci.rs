//! `vaquita-oci`: the command line of the OCI runtime, run as an engine runs it.

mod bundle;
mod capabilities;
mod console;
mod crashes;
mod exec;
mod help;
mod hooks;
mod life;
mod limits;
mod misuse;
mod rootless;
mod streams;
