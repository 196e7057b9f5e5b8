//! The kinds of object that are served: one file each.

pub(crate) mod at;
mod config_map;
mod errors;
mod event;
mod forms;
mod labels;
mod lease;
mod limit_range;
mod namespace;
mod node;
mod plain;
mod pod;
mod priority_class;
mod resource_quota;
pub(crate) mod resources;
mod runtime_class;
mod secret;
mod service_account;
mod tolerations;

pub use config_map::CONFIG_MAP;
pub use event::{EVENT, EVENT_V1};
pub use lease::LEASE;
pub use limit_range::LIMIT_RANGE;
pub(crate) use limit_range::thousandths;
pub use namespace::NAMESPACE;
pub use node::NODE;
pub use plain::{EMPTY, PLAIN};
pub use pod::POD;
pub(crate) use pod::{default_spec as default_pod_spec, template as pod_template};
pub use priority_class::{PRIORITY_CLASS, built_in_priority_classes};
pub use resource_quota::RESOURCE_QUOTA;
pub use runtime_class::RUNTIME_CLASS;
pub use secret::SECRET;
pub use service_account::SERVICE_ACCOUNT;

pub(crate) use vaquita_schema::quantity;

use crate::Kind;

/// Every kind that is served.
pub static KINDS: &[&Kind] = &[
    &CONFIG_MAP,
    &EVENT,
    &LIMIT_RANGE,
    &NAMESPACE,
    &NODE,
    &POD,
    &RESOURCE_QUOTA,
    &SECRET,
    &SERVICE_ACCOUNT,
    &LEASE,
    &EVENT_V1,
    &RUNTIME_CLASS,
    &PRIORITY_CLASS,
];
