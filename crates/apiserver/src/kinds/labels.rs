//! Labels, annotations and selectors in templates and specifications (`metadata` itself is checked for every kind alike).

use super::at::At;
use super::errors::Errors;
use crate::names::{label_value, qualified};

const ANNOTATIONS: usize = 256 << 10;

/// A map of labels, or of labels to select by.
pub(crate) fn labels(errors: &mut Errors, at: &At<'_>) {
    for (key, value) in at.entries() {
        label_key(errors, at, key);
        for message in label_value(value.text()) {
            errors.invalid_as(at, value.text(), message);
        }
    }
}

/// The key of a label, reported at `at`.
pub(crate) fn label_key(errors: &mut Errors, at: &At<'_>, key: &str) {
    for message in qualified(key) {
        errors.invalid_as(at, key, message);
    }
}

pub(crate) fn annotations(errors: &mut Errors, at: &At<'_>) {
    let mut size = 0;
    for (key, value) in at.entries() {
        size += key.len() + value.len();
        for message in qualified(&key.to_lowercase()) {
            errors.invalid_as(at, key, message);
        }
    }
    if size > ANNOTATIONS {
        errors.too_long(at, ANNOTATIONS);
    }
}

/// A `LabelSelector`, if it is given.
pub(crate) fn selector(errors: &mut Errors, at: &At<'_>) {
    labels(errors, &at.at("matchLabels"));
    for rule in at.at("matchExpressions").items() {
        let values = rule.at("values");
        match rule.at("operator").text() {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors
                    .forbidden(&values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            operator => errors.invalid_as(&rule.at("operator"), operator, "not a valid selector operator"),
        }
        label_key(errors, &rule.at("key"), rule.at("key").text());
        for value in values.items() {
            errors.messages(&value, label_value(value.text()));
        }
    }
}

/// The name of a finalizer without a domain must be one of Kubernetes' own.
pub(crate) fn finalizer_name(errors: &mut Errors, at: &At<'_>, name: &str) {
    if !name.contains('/') && !matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") {
        errors.invalid_as(at, name, "name is neither a standard finalizer name nor is it fully qualified");
    }
}
