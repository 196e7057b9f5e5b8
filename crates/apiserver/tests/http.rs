//! The API over a socket, as clients speak to it.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod http {
    pub(crate) mod bounds;
    pub(crate) mod forms;
    pub(crate) mod home;
    pub(crate) mod verbs;
    pub(crate) mod watches;
}
