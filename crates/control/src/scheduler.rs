//! Gives pods their machine.
#![allow(dead_code, reason = "x")]

mod decide;
pub(crate) mod filters;
pub(crate) mod machines;
mod resources;
mod scores;
mod select;
pub(crate) mod wants;
