//! From text to objects and back, by the table of types.

use serde_json::Value;
use vaquita_schema::{Type, encode, patch};

use crate::{Details, FieldError, Kind, Patch, Reason, Status, Strictness};

/// The type of a kind's objects.
pub(crate) fn type_of(kind: &Kind) -> Result<&'static Type, Status> {
    vaquita_schema::type_of(kind.group, kind.version, kind.name)
        .ok_or_else(|| Status::internal(format!("the type of {kind:?} is not in the table")))
}

/// An object with a patch applied, checked again; and what is to be warned of.
pub(crate) fn patched(
    kind: &Kind,
    object: &Value,
    patch: &Patch,
    strictness: Strictness,
) -> Result<(Value, Vec<String>), Status> {
    let ty = type_of(kind)?;
    let patched = match patch {
        Patch::Json(operations) => patch::json(object, operations),
        Patch::Merge(change) => patch::merge(object, change),
        Patch::Strategic(change) => patch::strategic(object, change, ty),
        Patch::Apply(_) => return Err(no_apply()),
    };
    let mut value = patched.map_err(|error| refused(&error))?;
    let shown = match patch {
        Patch::Strategic(change) => encode::sprint(change),
        _ => String::from_utf8_lossy(&encode::encode(&value)).into_owned(),
    };
    if value["kind"] != kind.name || value["apiVersion"] != kind.api_version() {
        return Err(unfit(shown, "the kind of an object cannot be changed"));
    }
    let check = match patch {
        Patch::Strategic(_) => vaquita_schema::decode::convert,
        _ => vaquita_schema::decode::check,
    };
    let warnings = check(&mut value, ty, strictness).map_err(|error| unfit(shown, &error.to_string()))?;
    Ok((value, warnings))
}

/// What server-side apply gets.
pub(crate) fn no_apply() -> Status {
    Status::plain(
        415,
        Reason::UnsupportedMediaType,
        "server-side apply is not supported by this server: use `kubectl apply` without --server-side (accepted patches: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json)",
    )
}

/// A patch that is none, or does not fit.
pub(crate) fn refused(error: &vaquita_schema::Error) -> Status {
    match error.kind() {
        vaquita_schema::Kind::Malformed => Status::bad_request(error.to_string()),
        vaquita_schema::Kind::TooLarge => {
            Status::plain(413, Reason::RequestEntityTooLarge, error.to_string())
        }
        vaquita_schema::Kind::Unprocessable => {
            Status::plain(422, Reason::Invalid, error.to_string()).with_details(Details::default())
        }
        _ => Status::plain(500, Reason::Unknown, error.to_string()),
    }
}

/// The patched object is none of its kind.
fn unfit(shown: String, why: &str) -> Status {
    Status::invalid_named("", "", "", &[FieldError::invalid("patch", shown, why)])
}
