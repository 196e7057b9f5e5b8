use jiff::Timestamp;
use serde_json::Value;

use super::at::{At, Read};
use super::errors::Errors;
use crate::{Column, FieldError, Kind, Subresource, time};

/// Who holds something, and until when: heartbeats of nodes, leaders of controllers.
pub static LEASE: Kind = Kind {
    group: "coordination.k8s.io",
    plural: "leases",
    singular: "lease",
    name: "Lease",
    columns: &[Column::NAME, Column::text("Holder"), Column::AGE],
    cells,
    validate,
    create_on_update: true,
    unconditional_update: false,
    ..Kind::PLAIN
};

fn cells(lease: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        lease["metadata"]["name"].clone(),
        lease.text(&["spec", "holderIdentity"]).into(),
        time::age(&lease["metadata"]["creationTimestamp"], now).into(),
    ]
}

fn validate(lease: &Value, _: Option<&Value>, _: Option<Subresource>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = At::root(lease).at("spec");
    let duration = spec.at("leaseDurationSeconds");
    if duration.int().is_some_and(|seconds| seconds <= 0) {
        errors.invalid(&duration, "must be greater than 0");
    }
    errors.not_negative(&spec.at("leaseTransitions"));
    errors.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers() {
        let lease = json!({ "spec": { "leaseDurationSeconds": 0, "leaseTransitions": -1 } });
        let texts: Vec<String> = validate(&lease, None, None).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
            ]
        );
        assert!(validate(&json!({ "spec": { "leaseDurationSeconds": 40 } }), None, None).is_empty());
    }
}
