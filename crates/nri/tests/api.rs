//! Plugins on a real socket: each test is the plugin, byte by byte.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod api {
    mod client;
    mod events;
    mod hostile;
    mod joining;
    mod programs;
    mod support;
}
