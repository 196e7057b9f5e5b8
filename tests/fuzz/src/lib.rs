//! What the fuzz targets share with the ordinary tests of the seccomp compiler, and libseccomp beside it.

#[path = "../../../crates/runtime/tests/seccomp/differences.rs"]
pub mod differences;
#[path = "../../../crates/runtime/tests/seccomp/generate.rs"]
pub mod generate;
#[path = "../../../crates/runtime/tests/seccomp/interpreter.rs"]
pub mod interpreter;
pub mod libseccomp;
#[path = "../../../crates/runtime/tests/seccomp/model.rs"]
pub mod model;

/// The numbers of calls that libseccomp knows.
pub fn names() -> model::Names {
    model::Names::parse(include_str!("../../../crates/runtime/tests/seccomp/numbers.txt"))
}

/// What every error must be that a user is told.
pub fn one_line(error: &dyn std::fmt::Display) {
    let text = error.to_string();
    assert!(text.len() < 8192 && !text.contains(char::is_control), "{text:?}");
}
