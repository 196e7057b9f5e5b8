//! The Kubernetes API of one machine: what kinds there are, what can be done with them, and who may.
//!
//! An object is one JSON value and every kind goes the same way: [`Kind`] is a row of facts and small functions, [`Cluster`]
//! has the verbs. The HTTP side ([`serve`]) and the parts of this process (node, scheduler, controllers) call the same
//! verbs, so admission, defaults and validation hold for all.
//!
//! In the store an object is text that begins `{"metadata":{`, without apiVersion, kind and resourceVersion: answers are made
//! by putting these in front ([`Object::text`]), not by parsing. Lists and watches hold no copies and no queues.

pub mod access;
pub mod admission;
mod backup;
pub mod client;
mod cluster;
mod field;
pub mod http;
mod kind;
pub mod kinds;
mod metrics;
pub mod names;
mod node;
mod object;
mod options;
pub mod pki;
pub mod reviews;
mod schema;
mod selector;
mod status;
pub mod streams;
pub mod time;
pub mod tokens;

pub use crate::access::{Access, Attributes, User};
pub use crate::cluster::{Cluster, Deletion, List, Options, Watch, WatchEvent};
pub use crate::field::{FieldError, FieldErrorKind};
pub use crate::http::{Api, Body, Config, handle, serve};
pub use crate::kind::{Column, ColumnKind, Kind, Scope, Subresource, Verb};
pub use crate::node::{
    Answer, LogOptions, LogStream, LogText, Node, NodeUsage, PodUsage, Stream, Streams, Usage,
};
pub use crate::object::{Draft, Object};
pub use crate::options::{
    DeleteOptions, ListOptions, Patch, Propagation, VersionMatch, Warnings, WatchOptions, Write,
};
pub use crate::selector::{FieldSelector, LabelSelector};
pub use crate::status::{Cause, Details, Reason, Status};
pub use vaquita_schema::decode::Strictness;
