use std::fmt;

use serde_json::{Map, Value, json};

use crate::{FieldError, Kind};

/// The answer to a request that was not done, as Kubernetes gives it: `meta/v1.Status`. One constructor per Kubernetes
/// error, with its exact words.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// The machine's word.
    pub reason: Reason,
    /// The user's words.
    pub message: String,
    /// What it is about.
    pub details: Option<Box<Details>>,
    /// Where an expired list may go on.
    pub continued: Option<Box<str>>,
}

/// What a [`Status`] is about. Empty text is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Name of the object.
    pub name: String,
    /// API group.
    pub group: String,
    /// Resource (or kind, where the object is not valid).
    pub kind: String,
    /// Uid of the object.
    pub uid: String,
    /// What exactly is wrong.
    pub causes: Vec<Cause>,
    /// When to try again, in seconds; zero is left out.
    pub retry_after: u32,
}

/// One of the things that are wrong. Empty text is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// As `FieldValueRequired`.
    pub reason: String,
    /// As `Required value`.
    pub message: String,
    /// As `spec.containers[0].name`.
    pub field: String,
}

/// The machine's word for what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are Kubernetes' own, meta/v1 StatusReason")]
pub enum Reason {
    AlreadyExists,
    BadRequest,
    Conflict,
    Expired,
    Forbidden,
    Gone,
    InternalError,
    Invalid,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    RequestEntityTooLarge,
    ServerTimeout,
    ServiceUnavailable,
    Timeout,
    TooManyRequests,
    Unauthorized,
    Unknown,
    UnsupportedMediaType,
}

impl Status {
    /// `pods "x" not found`
    #[must_use]
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::of(404, Reason::NotFound, kind, name, format!("{} {} not found", kind.resource(), quote(name)))
    }

    /// What a path that nothing serves gets.
    #[must_use]
    pub fn no_such_path() -> Self {
        Self {
            details: Some(Box::default()),
            ..Self::plain(404, Reason::NotFound, "the server could not find the requested resource")
        }
    }

    /// `pods "x" already exists`
    #[must_use]
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        Self::of(
            409,
            Reason::AlreadyExists,
            kind,
            name,
            format!("{} {} already exists", kind.resource(), quote(name)),
        )
    }

    /// The name that was generated is taken: the client may try again.
    #[must_use]
    pub fn generated_name_taken(kind: &Kind, name: &str) -> Self {
        let resource = kind.resource();
        let message = format!(
            "{resource} {} already exists, the server was not able to generate a unique name for the object",
            quote(name)
        );
        let mut status = Self::of(409, Reason::AlreadyExists, kind, name, message);
        if let Some(details) = &mut status.details {
            details.retry_after = 1;
        }
        status
    }

    /// `Operation cannot be fulfilled on pods "x": …`
    #[must_use]
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {}: {why}", kind.resource(), quote(name));
        Self::of(409, Reason::Conflict, kind, name, message)
    }

    /// The conflict of a write that was made from an older version.
    #[must_use]
    pub fn modified(kind: &Kind, name: &str) -> Self {
        Self::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// `pods "x" is forbidden: …`
    #[must_use]
    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        Self::forbidden_resource(kind.group, kind.plural, name, why)
    }

    /// `Pod "x" is invalid: …`, with a cause per error.
    #[must_use]
    pub fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Self {
        Self::invalid_named(kind.group, kind.name, name, errors)
    }

    /// [`Status::invalid`] for a kind that is not in the table, as the options of a request.
    #[must_use]
    pub fn invalid_named(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut texts: Vec<String> = Vec::new();
        for error in errors {
            let text = error.to_string();
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let what = match texts.as_slice() {
            [] => String::new(),
            [one] => format!(": {one}"),
            many => format!(": [{}]", many.join(", ")),
        };
        let causes = errors
            .iter()
            .map(|error| Cause {
                reason: error.kind.reason().to_owned(),
                message: error.body(),
                field: error.path.clone(),
            })
            .collect();
        Self {
            code: 422,
            reason: Reason::Invalid,
            message: format!("{qualified} {} is invalid{what}", quote(name)),
            details: Some(Box::new(Details {
                name: name.to_owned(),
                group: group.to_owned(),
                kind: kind.to_owned(),
                causes,
                ..Details::default()
            })),
            continued: None,
        }
    }

    /// The request makes no sense.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::plain(400, Reason::BadRequest, message)
    }

    /// Nobody known asks.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::plain(401, Reason::Unauthorized, "Unauthorized")
    }

    /// `patch is not supported on resources of kind "events"`
    #[must_use]
    pub fn method_not_supported(kind: &Kind, action: &str) -> Self {
        let message = format!("{action} is not supported on resources of kind {}", quote(&kind.resource()));
        Self::of(405, Reason::MethodNotAllowed, kind, "", message)
    }

    /// What a path that is served, but not for this method, gets.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self {
            details: Some(Box::default()),
            ..Self::plain(
                405,
                Reason::MethodNotAllowed,
                "the server does not allow this method on the requested resource",
            )
        }
    }

    /// None of the forms that the client takes can be given.
    #[must_use]
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::plain(406, Reason::NotAcceptable, message)
    }

    /// The client takes no form at all that there is.
    #[must_use]
    pub fn no_representation(available: &[&str]) -> Self {
        let message = format!("406: Not Acceptable\n\nAvailable representations: {}", available.join(", "));
        Self::plain(406, Reason::NotAcceptable, message).with_details(Details::default())
    }

    /// A body in a form that the server does not take.
    #[must_use]
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::plain(415, Reason::UnsupportedMediaType, message)
    }

    /// A patch in a form that there is not.
    #[must_use]
    pub fn no_patch() -> Self {
        let text = "415: Unsupported Media Type";
        Self::plain(415, Reason::UnsupportedMediaType, text).with_details(Details::default())
    }

    /// The history that is asked for is gone.
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::plain(410, Reason::Expired, message)
    }

    /// A watch from a revision that history does not reach back to.
    #[must_use]
    pub fn too_old(asked: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    /// A body longer than what is taken, in bytes.
    #[must_use]
    pub fn too_large(limit: usize) -> Self {
        Self::plain(413, Reason::RequestEntityTooLarge, format!("Request entity too large: limit is {limit}"))
    }

    /// The client shall come back later.
    #[must_use]
    pub fn too_many_requests(message: &str, retry_after: u32) -> Self {
        Self {
            details: Some(Box::new(Details { retry_after, ..Details::default() })),
            ..Self::plain(429, Reason::TooManyRequests, message)
        }
    }

    /// Our own failure.
    #[must_use]
    pub fn internal(what: impl fmt::Display) -> Self {
        let what = what.to_string();
        let cause = Cause { message: what.clone(), ..Cause::default() };
        Self {
            details: Some(Box::new(Details { causes: vec![cause], ..Details::default() })),
            ..Self::plain(500, Reason::InternalError, format!("Internal error occurred: {what}"))
        }
    }

    /// Something that the request needs is not there now.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::plain(503, Reason::ServiceUnavailable, message)
    }

    /// The request took too long.
    #[must_use]
    pub fn timeout(message: &str) -> Self {
        Self {
            details: Some(Box::default()),
            ..Self::plain(504, Reason::Timeout, format!("Timeout: {message}"))
        }
    }

    /// One with everything given but details.
    #[must_use]
    pub fn plain(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None, continued: None }
    }

    /// A version that has not come yet.
    #[must_use]
    pub fn too_new(asked: u64, current: u64) -> Self {
        let cause = Cause {
            reason: "ResourceVersionTooLarge".to_owned(),
            message: "Too large resource version".to_owned(),
            ..Cause::default()
        };
        let details = Details { causes: vec![cause], retry_after: 1, ..Details::default() };
        Self::timeout(&format!("Too large resource version: {asked}, current: {current}"))
            .with_details(details)
    }

    /// [`Status::forbidden`] for a resource that may not be there.
    #[must_use]
    pub fn forbidden_resource(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let qualified = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        let message = match (resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (_, true) => format!("{qualified} is forbidden: {why}"),
            _ => format!("{qualified} {} is forbidden: {why}", quote(name)),
        };
        Self::plain(403, Reason::Forbidden, message).with_details(Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: resource.to_owned(),
            ..Details::default()
        })
    }

    /// The same about an object.
    #[must_use]
    pub fn with_details(mut self, details: Details) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    /// As JSON: `{"kind":"Status","apiVersion":"v1",…}`.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut value = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message,
        });
        if let Some(continued) = &self.continued {
            value["metadata"]["continue"] = Value::from(continued.as_ref());
        }
        if self.reason != Reason::Unknown {
            value["reason"] = Value::String(self.reason.as_str().to_owned());
        }
        if let Some(details) = &self.details {
            value["details"] = details.to_value();
        }
        value["code"] = self.code.into();
        value
    }

    /// The answer to a deletion that is done.
    #[must_use]
    pub fn success(details: &Details) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details.to_value()})
    }

    fn of(code: u16, reason: Reason, kind: &Kind, name: &str, message: String) -> Self {
        Self {
            code,
            reason,
            message,
            details: Some(Box::new(Details {
                name: name.to_owned(),
                group: kind.group.to_owned(),
                kind: kind.plural.to_owned(),
                ..Details::default()
            })),
            continued: None,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

impl Details {
    /// As JSON.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (name, text) in
            [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)]
        {
            put(&mut map, name, text);
        }
        if !self.causes.is_empty() {
            map.insert("causes".to_owned(), self.causes.iter().map(Cause::to_value).collect());
        }
        if self.retry_after > 0 {
            map.insert("retryAfterSeconds".to_owned(), self.retry_after.into());
        }
        Value::Object(map)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (name, text) in [("reason", &self.reason), ("message", &self.message), ("field", &self.field)] {
            put(&mut map, name, text);
        }
        Value::Object(map)
    }
}

impl Reason {
    /// As in JSON; empty if unknown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AlreadyExists => "AlreadyExists",
            Self::BadRequest => "BadRequest",
            Self::Conflict => "Conflict",
            Self::Expired => "Expired",
            Self::Forbidden => "Forbidden",
            Self::Gone => "Gone",
            Self::InternalError => "InternalError",
            Self::Invalid => "Invalid",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::NotFound => "NotFound",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::ServerTimeout => "ServerTimeout",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::Timeout => "Timeout",
            Self::TooManyRequests => "TooManyRequests",
            Self::Unauthorized => "Unauthorized",
            Self::Unknown => "",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
        }
    }
}

/// Text in quotes as Go's `%q` writes it.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn put(map: &mut Map<String, Value>, name: &str, text: &str) {
    if !text.is_empty() {
        map.insert(name.to_owned(), Value::String(text.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODS: Kind = Kind { plural: "pods", name: "Pod", ..Kind::PLAIN };
    const LEASES: Kind =
        Kind { group: "coordination.k8s.io", plural: "leases", name: "Lease", ..Kind::PLAIN };

    #[test]
    fn messages_are_those_of_kubernetes() {
        assert_eq!(Status::not_found(&PODS, "x").message, r#"pods "x" not found"#);
        assert_eq!(
            Status::already_exists(&LEASES, "x").message,
            r#"leases.coordination.k8s.io "x" already exists"#
        );
        assert_eq!(
            Status::modified(&PODS, "x").message,
            r#"Operation cannot be fulfilled on pods "x": the object has been modified; please apply your changes to the latest version and try again"#
        );
        assert_eq!(Status::too_large(3_145_728).message, "Request entity too large: limit is 3145728");
    }

    #[test]
    fn an_invalid_object_is_told_with_causes() {
        let one = FieldError::required("spec.containers", "");
        let two = FieldError::invalid("metadata.name", "A", "no");
        let status = Status::invalid(&PODS, "x", &[one.clone(), two]);
        assert_eq!(
            status.message,
            r#"Pod "x" is invalid: [spec.containers: Required value, metadata.name: Invalid value: "A": no]"#
        );
        let value = Status::invalid(&PODS, "x", &[one]).to_value();
        assert_eq!(
            value.to_string(),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Pod \"x\" is invalid: spec.containers: Required value","reason":"Invalid","details":{"name":"x","kind":"Pod","causes":[{"reason":"FieldValueRequired","message":"Required value","field":"spec.containers"}]},"code":422}"#
        );
    }
}
