//! What needs root and a real kernel.

#![allow(unsafe_code, reason = "the tests clone processes")]
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod root {
    mod mounts;
    mod paths;
    mod processes;
    mod support;
}
