use serde_json::{Value, json};

use super::{Admission, Attributes, Operation};
use crate::kinds::POD;
use crate::kinds::at::{Read, list};
use crate::{Cluster, Status};

/// Pods stand five minutes of a node that is not ready or not reachable.
pub(super) static TOLERATIONS: Admission =
    Admission { name: "DefaultTolerationSeconds", mutate, ..Admission::NONE };

#[allow(clippy::unnecessary_wraps, reason = "has the form that all in the chain have")]
fn mutate(_: &Cluster, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
    if *attributes.kind != POD
        || attributes.subresource.is_some()
        || attributes.operation == Operation::Delete
    {
        return Ok(());
    }
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let stands = pod.list(&["spec", "tolerations"]).iter().any(|one| {
            let (own, effect) = (one.text(&["key"]), one.text(&["effect"]));
            (own.is_empty() || own == key) && matches!(effect, "" | "NoExecute")
        });
        if !stands && let Some(all) = pod.object("spec").make("tolerations", list).as_array_mut() {
            let five_minutes = 300;
            all.push(json!({ "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": five_minutes }));
        }
    }
    Ok(())
}
