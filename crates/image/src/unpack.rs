//! Unpacks one layer into a directory; runs as a process of its own.

use std::process::ExitCode;

/// The name (`argv[0]`) under which the binary calls [`main`].
pub const PROGRAM: &str = "vaquita-unpack";

/// The unpacking process: reads a layer from standard input, and fills the directory whose descriptor it was given.
///
/// Called first thing by a binary that was started as [`PROGRAM`]; nothing else may run in that process. The exit
/// status is 0 also when the layer is refused: the result goes to standard output.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::FAILURE
}
