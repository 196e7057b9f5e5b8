//! Who may, over TLS as clients come, and what they are joined to.
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod access {
    pub(crate) mod certificates;
    pub(crate) mod home;
    pub(crate) mod limits;
    pub(crate) mod streams;
    pub(crate) mod tokens;
}
