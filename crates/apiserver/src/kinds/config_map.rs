use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::{Column, Kind, time};

/// Configuration as keys and values.
pub static CONFIG_MAP: Kind = Kind {
    plural: "configmaps",
    singular: "configmap",
    name: "ConfigMap",
    short_names: &["cm"],
    columns: &[Column::NAME, Column::text("Data"), Column::AGE],
    cells,
    ..Kind::PLAIN
};

fn cells(value: &Value, now: Timestamp) -> Vec<Value> {
    let count = |field: &str| value[field].as_object().map_or(0, Map::len);
    let metadata = &value["metadata"];
    vec![
        metadata["name"].clone(),
        (count("data") + count("binaryData")).to_string().into(),
        time::age(&metadata["creationTimestamp"], now).into(),
    ]
}
