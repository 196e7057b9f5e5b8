//! What needs root and a real kernel.

#![allow(unsafe_code, reason = "the tests clone processes")]

mod root {
    mod mounts;
    mod paths;
    mod processes;
    mod support;
}
