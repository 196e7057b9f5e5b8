use serde_json::Value;

use super::{Admission, Attributes, Operation, forbidden};
use crate::kinds::NAMESPACE;
use crate::kinds::at::Read;
use crate::{Cause, Cluster, Scope, Status};

/// Objects are made in namespaces that exist and do not end; the namespaces of the cluster itself stay.
pub(super) static LIFECYCLE: Admission = Admission { name: "NamespaceLifecycle", mutate, check };

const IMMORTAL: &[&str] = &["default", "kube-public", "kube-system"];

fn mutate(cluster: &Cluster, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), Status> {
    if attributes.kind.scope == Scope::Cluster || attributes.operation == Operation::Delete {
        return Ok(());
    }
    let namespace = cluster.get(&NAMESPACE, "", attributes.namespace)?.value();
    let ends = namespace.text(&["status", "phase"]) == "Terminating";
    if attributes.operation != Operation::Create || !ends {
        return Ok(());
    }
    let name = attributes.namespace;
    let why = format!("unable to create new content in namespace {name} because it is being terminated");
    let mut status = forbidden(attributes, object, &why);
    let cause = Cause {
        reason: "NamespaceTerminating".into(),
        message: format!("namespace {name} is being terminated"),
        field: "metadata.namespace".to_owned(),
    };
    status.details.get_or_insert_default().causes.push(cause);
    Err(status)
}

fn check(_: &Cluster, attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    let ours = *attributes.kind == NAMESPACE && IMMORTAL.contains(&attributes.name);
    if attributes.operation == Operation::Delete && ours {
        return Err(forbidden(attributes, object, "this namespace may not be deleted"));
    }
    Ok(())
}
