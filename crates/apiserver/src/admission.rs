//! What is decided about a write beyond the object's own form: defaults from elsewhere, quotas, what must be there first.

mod limits;
mod namespace;
mod priority;
/// What namespaces have and may have.
pub mod quota;
mod runtime_class;
mod service_account;
mod tolerations;

use std::fmt;

use serde_json::Value;

use crate::{Cluster, Kind, Status, Subresource, User};

/// Every admission function, in the order in which they are asked. All `mutate` run before validation, all `check` after it.
pub static CHAIN: &[&Admission] = &[
    &namespace::LIFECYCLE,
    &limits::LIMITS,
    &service_account::SERVICE_ACCOUNTS,
    &priority::PRIORITY,
    &tolerations::TOLERATIONS,
    &runtime_class::RUNTIME_CLASSES,
    &quota::QUOTA,
];

/// One admission function; does nothing where it has nothing to say. They run at every write, in one call after the other,
/// and never wait: the store answers reads from memory.
pub struct Admission {
    /// As Kubernetes names it: `LimitRanger`.
    pub name: &'static str,
    /// Completes the object.
    pub mutate: fn(&Cluster, &Attributes<'_>, &mut Value) -> Result<(), Status>,
    /// Decides about the completed and valid object. At a deletion it is the stored object.
    pub check: fn(&Cluster, &Attributes<'_>, &Value) -> Result<(), Status>,
}

impl Admission {
    /// One that says nothing: what others start from.
    pub const NONE: Self = Self { name: "", mutate: |_, _, _| Ok(()), check: |_, _, _| Ok(()) };
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Admission({})", self.name)
    }
}

/// What is written, and by whom.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// What is done.
    pub operation: Operation,
    /// To what kind of object.
    pub kind: &'static Kind,
    /// Through which subresource.
    pub subresource: Option<Subresource>,
    /// Where; empty for objects of the cluster.
    pub namespace: &'a str,
    /// The object's name; empty before it is generated.
    pub name: &'a str,
    /// Who writes.
    pub user: &'a User,
    /// The stored object, if there is one.
    pub old: Option<&'a Value>,
    /// Whether nothing will be stored.
    pub dry_run: bool,
}

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It is made.
    Create,
    /// It is removed.
    Delete,
    /// It is changed.
    Update,
}

/// Runs every `mutate`.
pub(crate) fn mutate(
    cluster: &Cluster,
    attributes: &Attributes<'_>,
    object: &mut Value,
) -> Result<(), Status> {
    CHAIN.iter().try_for_each(|one| (one.mutate)(cluster, attributes, object))
}

/// Runs every `check`.
pub(crate) fn check(cluster: &Cluster, attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    CHAIN.iter().try_for_each(|one| (one.check)(cluster, attributes, object))
}

/// `pods "x" is forbidden: why`, by the name that the object has or will have.
fn forbidden(attributes: &Attributes<'_>, object: &Value, why: &str) -> Status {
    let meta = &object["metadata"];
    let names = [Some(attributes.name), meta["name"].as_str(), meta["generateName"].as_str()];
    let name = names.into_iter().flatten().find(|name| !name.is_empty()).unwrap_or("Unknown");
    Status::forbidden(attributes.kind, name, why)
}
