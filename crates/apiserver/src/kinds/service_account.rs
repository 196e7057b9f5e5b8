use jiff::Timestamp;
use serde_json::Value;

use crate::{Column, Kind, Subresource, time};

/// Who the processes of a pod are to the API.
pub static SERVICE_ACCOUNT: Kind = Kind {
    plural: "serviceaccounts",
    singular: "serviceaccount",
    name: "ServiceAccount",
    short_names: &["sa"],
    subresources: &[Subresource::Token],
    columns: &[Column::NAME, Column::AGE],
    cells: named_with_age,
    returns_deleted: true,
    ..Kind::PLAIN
};

/// The cells of a kind that shows its name and age only.
pub(super) fn named_with_age(value: &Value, now: Timestamp) -> Vec<Value> {
    let metadata = &value["metadata"];
    vec![metadata["name"].clone(), time::age(&metadata["creationTimestamp"], now).into()]
}
