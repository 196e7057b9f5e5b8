//! How objects of storage are shown.

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{age, name, or};
use crate::kinds::at::Read;
use crate::{Column, ColumnKind};

pub(super) const CLAIM: &[Column] = &[
    Column::NAME,
    Column::text("Status"),
    Column::text("Volume"),
    Column::text("Capacity"),
    Column::text("Access Modes"),
    Column::text("StorageClass"),
    Column::text("VolumeAttributesClass"),
    Column::AGE,
    Column::text("VolumeMode").wide(),
];

pub(super) fn claim(value: &Value, now: Timestamp) -> Vec<Value> {
    let bound = !value.text(&["spec", "volumeName"]).is_empty();
    let (capacity, modes) = if bound {
        (value.text(&["status", "capacity", "storage"]).to_owned(), modes(value.dig(&["status"])))
    } else {
        (String::new(), String::new())
    };
    vec![
        name(value),
        phase(value),
        value.text(&["spec", "volumeName"]).into(),
        capacity.into(),
        modes.into(),
        value.text(&["spec", "storageClassName"]).into(),
        or(value, &["spec", "volumeAttributesClassName"], "<unset>"),
        age(value, now),
        or(value, &["spec", "volumeMode"], "<unset>"),
    ]
}

fn phase(value: &Value) -> Value {
    if value.dig(&["metadata", "deletionTimestamp"]).is_null() {
        value.text(&["status", "phase"]).into()
    } else {
        "Terminating".into()
    }
}

fn modes(value: &Value) -> String {
    let has = |mode: &str| value.list(&["accessModes"]).iter().any(|one| one == mode);
    let all = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    all.into_iter().filter(|(mode, _)| has(mode)).map(|(_, short)| short).collect::<Vec<_>>().join(",")
}

pub(super) const VOLUME: &[Column] = &[
    Column::NAME,
    Column::text("Capacity"),
    Column::text("Access Modes"),
    Column::text("Reclaim Policy"),
    Column::text("Status"),
    Column::text("Claim"),
    Column::text("StorageClass"),
    Column::text("VolumeAttributesClass"),
    Column::text("Reason"),
    Column::AGE,
    Column::text("VolumeMode").wide(),
];

pub(super) fn volume(value: &Value, now: Timestamp) -> Vec<Value> {
    let claim = value.dig(&["spec", "claimRef"]);
    let claim = if claim.is_null() {
        String::new()
    } else {
        format!("{}/{}", claim.text(&["namespace"]), claim.text(&["name"]))
    };
    vec![
        name(value),
        value.text(&["spec", "capacity", "storage"]).into(),
        modes(value.dig(&["spec"])).into(),
        value.text(&["spec", "persistentVolumeReclaimPolicy"]).into(),
        phase(value),
        claim.into(),
        value.text(&["spec", "storageClassName"]).into(),
        or(value, &["spec", "volumeAttributesClassName"], "<unset>"),
        value.text(&["status", "reason"]).into(),
        age(value, now),
        or(value, &["spec", "volumeMode"], "<unset>"),
    ]
}

pub(super) const CLASS: &[Column] = &[
    Column::NAME,
    Column::text("Provisioner"),
    Column::text("ReclaimPolicy"),
    Column::text("VolumeBindingMode"),
    Column { kind: ColumnKind::Boolean, ..Column::text("AllowVolumeExpansion") },
    Column::AGE,
];

pub(super) fn class(value: &Value, now: Timestamp) -> Vec<Value> {
    let default =
        value.text(&["metadata", "annotations", "storageclass.kubernetes.io/is-default-class"]) == "true";
    let mut shown = value.text(&["metadata", "name"]).to_owned();
    if default {
        shown.push_str(" (default)");
    }
    vec![
        shown.into(),
        value.text(&["provisioner"]).into(),
        or(value, &["reclaimPolicy"], "Delete"),
        or(value, &["volumeBindingMode"], "Immediate"),
        value.yes(&["allowVolumeExpansion"]).into(),
        age(value, now),
    ]
}

pub(super) const ATTACHMENT: &[Column] = &[
    Column::NAME,
    Column::text("Attacher"),
    Column::text("PV"),
    Column::text("Node"),
    Column { kind: ColumnKind::Boolean, ..Column::text("Attached") },
    Column::AGE,
];

pub(super) fn attachment(value: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(value),
        value.text(&["spec", "attacher"]).into(),
        value.text(&["spec", "source", "persistentVolumeName"]).into(),
        value.text(&["spec", "nodeName"]).into(),
        value.yes(&["status", "attached"]).into(),
        age(value, now),
    ]
}
