//! Gives pods their machine.

mod decide;
pub(crate) mod filters;
pub(crate) mod machines;
mod resources;
mod scores;
mod select;
pub(crate) mod wants;
