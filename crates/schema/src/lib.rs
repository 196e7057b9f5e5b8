//! The Kubernetes types as a table, and everything that needs no more than the table: decoding JSON, YAML and protobuf, strict
//! checks, patches, descriptions for clients. Pure: no I/O, no time.

pub mod decode;
pub mod encode;
mod error;
pub mod openapi;
pub mod patch;
pub mod protobuf;
pub mod quantity;
mod scan;
pub mod table;
mod time;

pub use error::{Error, Kind};
pub use table::{Field, Shape, Type, type_named, type_of};
