use std::fmt;

use serde_json::Value;

/// One thing that is wrong with a field of an object, in Kubernetes' words.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What is wrong.
    pub kind: FieldErrorKind,
    /// Where, as `spec.containers[0].name`.
    pub path: String,
    /// What was there.
    pub value: Value,
    /// More; may be empty.
    pub detail: String,
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// The value is there twice.
    Duplicate,
    /// May not be set (so).
    Forbidden,
    /// The server failed to find out.
    Internal,
    /// Not a value that the field can have.
    Invalid,
    /// Names something that is not there.
    NotFound,
    /// Not one of the values known.
    NotSupported,
    /// Missing.
    Required,
    /// Too many bytes.
    TooLong,
    /// Too many items.
    TooMany,
    /// Not of the field's type.
    TypeInvalid,
}

impl FieldError {
    /// `path: Required value: detail`
    pub fn required(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Required, path, Value::Null, detail)
    }

    /// `path: Invalid value: "value": detail`
    pub fn invalid(path: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Invalid, path, value, detail)
    }

    /// `path: Unsupported value: "value": supported values: "a", "b"`, the values in the order given (Kubernetes sorts them).
    pub fn not_supported(path: impl Into<String>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let quoted: Vec<String> = supported.iter().map(|one| format!("{one:?}")).collect();
        let detail = if quoted.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", quoted.join(", "))
        };
        Self::new(FieldErrorKind::NotSupported, path, value, detail)
    }

    /// `path: Forbidden: detail`
    pub fn forbidden(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Forbidden, path, Value::Null, detail)
    }

    /// `path: Duplicate value: "value"`
    pub fn duplicate(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::Duplicate, path, value, "")
    }

    /// `path: Not found: "value"`
    pub fn not_found(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::NotFound, path, value, "")
    }

    /// `path: Too long: may not be more than N bytes`
    pub fn too_long(path: impl Into<String>, most: usize) -> Self {
        Self::new(FieldErrorKind::TooLong, path, Value::Null, format!("may not be more than {most} bytes"))
    }

    /// `path: Too many: N: must have at most M items`
    pub fn too_many(path: impl Into<String>, actual: usize, most: usize) -> Self {
        let items = if most == 1 { "item" } else { "items" };
        Self::new(FieldErrorKind::TooMany, path, actual, format!("must have at most {most} {items}"))
    }

    /// One with everything given.
    pub fn new(
        kind: FieldErrorKind,
        path: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self { kind, path: path.into(), value: value.into(), detail: detail.into() }
    }

    /// The text without the path.
    #[must_use]
    pub fn body(&self) -> String {
        let mut text = self.kind.title().to_owned();
        let valued = !matches!(
            self.kind,
            FieldErrorKind::Required
                | FieldErrorKind::Forbidden
                | FieldErrorKind::TooLong
                | FieldErrorKind::Internal
        );
        if valued {
            match &self.value {
                Value::Null => text.push_str(": null"),
                Value::String(value) => text.push_str(&format!(": {}", crate::status::quote(value))),
                other => text.push_str(&format!(": {other}")),
            }
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

impl FieldErrorKind {
    /// As in messages: `Required value`.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::Internal => "Internal error",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotFound => "Not found",
            Self::NotSupported => "Unsupported value",
            Self::Required => "Required value",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
        }
    }

    /// As in the causes of a Status: `FieldValueRequired`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::Internal => "InternalError",
            Self::Invalid => "FieldValueInvalid",
            Self::NotFound => "FieldValueNotFound",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Required => "FieldValueRequired",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_error_reads_as_kubernetes_says_it() {
        assert_eq!(
            FieldError::required("spec.containers[0].name", "").to_string(),
            "spec.containers[0].name: Required value"
        );
        assert_eq!(
            FieldError::invalid("metadata.name", "A\"", "no").to_string(),
            r#"metadata.name: Invalid value: "A\"": no"#
        );
        assert_eq!(
            FieldError::not_supported("spec.restartPolicy", "x", &["Always", "Never"]).to_string(),
            r#"spec.restartPolicy: Unsupported value: "x": supported values: "Always", "Never""#
        );
        assert_eq!(
            FieldError::invalid("spec.priority", 3, "").to_string(),
            "spec.priority: Invalid value: 3"
        );
    }
}
