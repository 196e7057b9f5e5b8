//! The kinds of object that are served: one file each.

mod config_map;

pub use config_map::CONFIG_MAP;

use crate::Kind;

/// Every kind that is served.
pub static KINDS: &[&Kind] = &[&CONFIG_MAP];
