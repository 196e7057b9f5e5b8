//! Tables: what `kubectl get` shows.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::query::Query;
use crate::{ColumnKind, FieldError, Kind, Object, Status};

/// What a row carries beside its cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Include {
    /// The metadata.
    #[default]
    Metadata,
    /// Nothing.
    None,
    /// All of it.
    Object,
}

/// What rows shall carry.
pub(crate) fn include(query: &Query) -> Result<Include, Status> {
    match query.text("includeObject") {
        "" | "Metadata" => Ok(Include::Metadata),
        "None" => Ok(Include::None),
        "Object" => Ok(Include::Object),
        other => {
            let error =
                FieldError::invalid("includeObject", other, "must be 'Metadata', 'Object', 'None', or empty");
            Err(Status::bad_request(format!("Unable to convert to Table as requested: {error}")))
        }
    }
}

/// The headings.
pub(crate) fn columns(kind: &Kind) -> Value {
    let column = |column: &crate::Column| {
        json!({
            "name": column.name,
            "type": match column.kind {
                ColumnKind::Boolean => "boolean",
                ColumnKind::Date => "date",
                ColumnKind::Integer => "integer",
                ColumnKind::String => "string",
            },
            "format": column.format,
            "description": column.description,
            "priority": i32::from(column.wide),
        })
    };
    kind.columns.iter().map(column).collect()
}

/// One row, as text.
pub(crate) fn row(object: &Object, include: Include, version: &str, now: Timestamp, out: &mut Vec<u8>) {
    let mut value = object.value();
    let cells = Value::Array((object.kind.cells)(&value, now));
    let carried = match include {
        Include::Metadata => metadata(value["metadata"].take(), version),
        Include::None => Value::Null,
        Include::Object => value,
    };
    out.extend_from_slice(b"{\"cells\":");
    write(&cells, out);
    out.extend_from_slice(b",\"object\":");
    write(&carried, out);
    out.push(b'}');
}

/// An object of which only the metadata is told.
pub(crate) fn metadata(metadata: Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": metadata,
    })
}

/// A value as Go writes it.
pub(crate) fn write(value: &Value, out: &mut Vec<u8>) {
    // Writing into memory does not fail.
    let _ = vaquita_schema::encode::write(value, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{EMPTY, KINDS, PLAIN};

    #[test]
    fn every_kind_has_a_cell_for_each_column_of_anything() {
        for kind in KINDS.iter().copied().chain(PLAIN).chain(EMPTY) {
            for object in [
                Value::Null,
                json!({"metadata": {"name": ""}}),
                json!({"spec": [], "status": 1, "data": "x"}),
            ] {
                let cells = (kind.cells)(&object, Timestamp::UNIX_EPOCH);
                assert_eq!(cells.len(), kind.columns.len(), "{kind:?} {object}");
            }
        }
    }
}
