//! Bodies of requests.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};
use vaquita_schema::{decode, protobuf};

use crate::status::quote;
use crate::{Draft, Kind, Patch, Status, Strictness, schema};

/// The longest body, in bytes.
pub(crate) const LIMIT: usize = 3 << 20;

/// Bytes of a body that is too long that are taken and thrown away.
const DRAINED: usize = 32 << 20;

/// How long a client may take to send a body.
const TIME: Duration = Duration::from_secs(60);

/// Bodies up to so many bytes do not wait for each other; the number of requests bounds them.
const SMALL: usize = 64 << 10;

/// KiB that longer bodies in the making may take together: clients that send slowly hold no more than that.
static ROOM: Semaphore = Semaphore::const_new(32 << 10);

/// The forms in which objects are taken.
const ACCEPTED: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// A body, and the room that it takes until it was dealt with.
pub(crate) struct Read {
    pub(crate) bytes: Bytes,
    pub(crate) form: Form,
    _room: Option<SemaphorePermit<'static>>,
}

/// The form of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Other(String),
    Protobuf,
    Yaml,
}

/// Reads all of a body.
pub(crate) async fn body(headers: &HeaderMap, body: Incoming) -> Result<Read, Status> {
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > LIMIT) {
        drain(body).await;
        return Err(Status::too_large(LIMIT));
    }
    let whole = async {
        let room = match length {
            Some(length) if length <= SMALL => None,
            length => {
                let room = u32::try_from(length.unwrap_or(LIMIT) >> 10).unwrap_or(u32::MAX);
                Some(ROOM.acquire_many(room).await.map_err(Status::internal)?)
            }
        };
        let mut body = body;
        match Limited::new(&mut body, LIMIT).collect().await {
            Ok(bytes) => Ok(Read { bytes: bytes.to_bytes(), form: form(headers), _room: room }),
            Err(error) if error.is::<LengthLimitError>() => {
                drop(room);
                drain(body).await;
                Err(Status::too_large(LIMIT))
            }
            Err(error) => {
                Err(Status::bad_request(format!("the body of the request could not be read: {error}")))
            }
        }
    };
    tokio::time::timeout(TIME, whole)
        .await
        .unwrap_or_else(|_| Err(Status::timeout("request did not complete within the allotted timeout")))
}

/// Reads on for a while what is too long anyway: many clients send all before they look at the answer.
async fn drain(mut body: Incoming) {
    let rest = async {
        let mut left = DRAINED;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), rest).await;
}

fn form(headers: &HeaderMap) -> Form {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match text.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" => Form::Json,
        "application/yaml" => Form::Yaml,
        "application/vnd.kubernetes.protobuf" => Form::Protobuf,
        other => Form::Other(other.to_owned()),
    }
}

impl Read {
    /// The object of a kind that the body is.
    pub(crate) fn object(&self, kind: &Kind, strictness: Strictness) -> Result<(Draft, Vec<String>), Status> {
        let (draft, warnings, (version, name)) = self.decode(kind, strictness)?;
        let fits =
            (version.is_empty() || version == kind.api_version()) && (name.is_empty() || name == kind.name);
        if fits { Ok((draft, warnings)) } else { Err(other_kind(kind, &version, &name)) }
    }

    /// A JSON value of any kind: options, reviews, bindings; apiVersion and kind as they came.
    pub(crate) fn value(&self) -> Result<Value, Status> {
        match &self.form {
            Form::Json if self.bytes.is_empty() => Ok(Value::Null),
            Form::Json => parse(&self.bytes),
            Form::Yaml => {
                let json = decode::yaml_to_json(&self.bytes)
                    .map_err(|error| Status::bad_request(error.to_string()))?;
                parse(&json)
            }
            Form::Protobuf => {
                let (version, kind, mut value) =
                    protobuf::decode(&self.bytes).map_err(|error| Status::bad_request(error.to_string()))?;
                value["apiVersion"] = version.into();
                value["kind"] = kind.into();
                Ok(value)
            }
            Form::Other(_) => Err(Status::unsupported_media_type(ACCEPTED)),
        }
    }

    /// The patch that the body is.
    pub(crate) fn patch(&self) -> Result<Patch, Status> {
        let Form::Other(form) = &self.form else { return Err(Status::no_patch()) };
        let decoded = || {
            parse(&self.bytes)
                .map_err(|status| Status { message: format!("error decoding patch: {status}"), ..status })
        };
        match form.as_str() {
            "application/json-patch+json" => Ok(Patch::Json(decoded()?)),
            "application/merge-patch+json" => Ok(Patch::Merge(decoded()?)),
            "application/strategic-merge-patch+json" => Ok(Patch::Strategic(parse(&self.bytes)?)),
            "application/apply-patch+yaml" | "application/apply-patch+cbor" => Err(schema::no_apply()),
            _ => Err(Status::no_patch()),
        }
    }

    #[expect(clippy::type_complexity, reason = "what was read, what to warn of, what it says it is")]
    fn decode(
        &self,
        kind: &Kind,
        strictness: Strictness,
    ) -> Result<(Draft, Vec<String>, (String, String)), Status> {
        let ty = schema::type_of(kind)?;
        let wrong = |error: &vaquita_schema::Error| self.wrong(kind, error);
        match &self.form {
            Form::Json => {
                let said = decode::peek(&self.bytes).map_err(|error| self.unknown(kind, &error))?;
                let decoded = decode::json(&self.bytes, ty, strictness).map_err(|error| wrong(&error))?;
                Ok((Draft { value: decoded.value, raw: decoded.raw }, decoded.warnings, said))
            }
            Form::Yaml => {
                let decoded = decode::yaml(&self.bytes, ty, strictness).map_err(|error| wrong(&error))?;
                let said = said(&decoded.value);
                Ok((Draft { value: decoded.value, raw: decoded.raw }, decoded.warnings, said))
            }
            Form::Protobuf => {
                let (version, name, mut value) =
                    protobuf::decode(&self.bytes).map_err(|error| wrong(&error))?;
                if (version.as_str(), name.as_str()) != (kind.api_version().as_str(), kind.name) {
                    return Ok((Draft::from(value), Vec::new(), (version, name)));
                }
                // Brings it into the form that JSON would have had.
                let warnings =
                    decode::check(&mut value, ty, Strictness::Ignore).map_err(|error| wrong(&error))?;
                Ok((Draft::from(value), warnings, (version, name)))
            }
            Form::Other(_) => Err(Status::unsupported_media_type(ACCEPTED)),
        }
    }

    fn wrong(&self, kind: &Kind, error: &vaquita_schema::Error) -> Status {
        if error.kind() == vaquita_schema::Kind::TooLarge {
            return Status::too_large(LIMIT);
        }
        let version = quote(kind.version);
        Status::bad_request(format!(
            "{} in version {version} cannot be handled as a {}: {error}",
            kind.name, kind.name
        ))
    }

    fn unknown(&self, kind: &Kind, error: &vaquita_schema::Error) -> Status {
        let summary = summary(&self.bytes);
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {error} ({summary})",
            kind.name
        ))
    }
}

/// The object is of another kind than the path says.
fn other_kind(expected: &Kind, api_version: &str, name: &str) -> Status {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let (group, version) =
        if api_version.is_empty() { (expected.group, expected.version) } else { (group, version) };
    let name = if name.is_empty() { expected.name } else { name };
    let why = if vaquita_schema::type_of(group, version, name).is_some() {
        let place = expected.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
        format!("converting ({version}.{name}) to ({place}.{}): unknown conversion", expected.name)
    } else {
        let version = quote(api_version);
        format!(
            "no kind {} is registered for version {version} in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
            quote(name)
        )
    };
    let (version, kind) = (quote(version), expected.name);
    Status::bad_request(format!("{name} in version {version} cannot be handled as a {kind}: {why}"))
}

fn said(value: &Value) -> (String, String) {
    let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
    (text("apiVersion"), text("kind"))
}

fn parse(bytes: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(bytes).map_err(|error| {
        // In Go's words, where it is no JSON at all.
        let told = decode::peek(bytes).err().map_or_else(|| error.to_string(), |error| error.to_string());
        let told = told.trim_start_matches("couldn't get version/kind; json parse error: ");
        Status::bad_request(told)
    })
}

/// The beginning of a body that is no object.
fn summary(bytes: &[u8]) -> String {
    const MOST: usize = 30;
    let head = &bytes[..bytes.len().min(MOST)];
    let more = if bytes.len() > MOST { " ..." } else { "" };
    match bytes.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(head)),
        Some(_) => head.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + more,
    }
}
