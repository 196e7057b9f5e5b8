//! Requests for what is served: discovery, OpenAPI, the version.

use aws_lc_rs::digest::{SHA256, digest};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::discovery::{self, Extra, Served};
use super::negotiate::{self, Discovery};
use super::{Api, Body, openapi, reply};
use crate::{Status, metrics, reviews};

/// `/version`
pub(crate) fn version() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "gitVersion": concat!("v1.36.2+vaquita.", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": concat!("linux/", "amd64"),
    })
}

/// `/api` and `/apis`
pub(crate) fn all(api: &Api, headers: &HeaderMap, core: bool) -> Result<Response<Body>, Status> {
    let served = Served::new(&api.cluster, &extras());
    let (value, form) = match negotiate::discovery(headers)? {
        Discovery::Aggregated(version) => {
            let form = match version {
                "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
                _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
            };
            (served.aggregated(core, version), form)
        }
        Discovery::Plain if core => {
            let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
            (discovery::core_versions(host), "application/json")
        }
        Discovery::Plain => (served.group_list(), "application/json"),
    };
    let mut text = Vec::new();
    super::table::write(&value, &mut text);
    let mut response = tagged(headers, form, text);
    response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

/// `/apis/{group}`
pub(crate) fn group(api: &Api, group: &str) -> Response<Body> {
    let value = Served::new(&api.cluster, &extras()).group(group);
    value.map_or_else(super::nowhere, |value| reply::json(200, &value))
}

/// `/api/v1` and `/apis/{group}/{version}`
pub(crate) fn group_version(api: &Api, group: &str, version: &str) -> Response<Body> {
    let value = Served::new(&api.cluster, &extras()).resources(group, version);
    match value {
        Some(value) => reply::json(200, &value),
        None if group.is_empty() => reply::status(&Status::no_such_path()),
        None => super::nowhere(),
    }
}

/// `/openapi/…`
pub(crate) fn schemas(api: &Api, headers: &HeaderMap, path: &str) -> Result<Response<Body>, Status> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (form, text) = openapi::document(&api.cluster, path, accept).ok_or_else(Status::no_such_path)?;
    let mut response = tagged(headers, form, text);
    if path.starts_with("v3/") {
        // The address in the index changes with the content.
        let forever = HeaderValue::from_static("public, immutable");
        response.headers_mut().insert(header::CACHE_CONTROL, forever);
    }
    Ok(response)
}

/// Resources that are served and not stored.
fn extras() -> Vec<Extra> {
    let review = |kind: &reviews::ReviewKind| Extra {
        group: kind.group,
        version: kind.version,
        plural: kind.plural,
        singular: kind.plural.strip_suffix('s').unwrap_or(kind.plural),
        kind: kind.kind,
        namespaced: kind.namespaced,
        verbs: &["create"],
    };
    let measured = metrics::RESOURCES.iter().map(|(plural, singular, kind, namespaced)| Extra {
        group: metrics::GROUP,
        version: metrics::VERSION,
        plural,
        singular,
        kind,
        namespaced: *namespaced,
        verbs: &["get", "list"],
    });
    reviews::KINDS.iter().map(review).chain(measured).collect()
}

/// An answer that the client may have already.
fn tagged(headers: &HeaderMap, form: &'static str, text: Vec<u8>) -> Response<Body> {
    let hash: String = digest(&SHA256, &text).as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    let tag = format!("\"{hash}\"");
    let known = headers.get_all(header::IF_NONE_MATCH).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|value| value.split(',').any(|one| one.trim().trim_start_matches("W/") == tag))
    });
    let mut response = if known {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        reply::bytes(200, form, text)
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    response
}
