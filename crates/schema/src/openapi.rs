//! What the API offers and what its objects look like, as OpenAPI documents: kubectl checks manifests, merges and explains by
//! them.
//!
//! A document is written anew for each request, as text, and nothing of it stays in memory; clients keep it for as long
//! as its hash in the index stays.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value, json};

use crate::table::{DIGEST, TypeRef, reference_of};

mod binary;
mod paths;
mod schema;
#[cfg(test)]
mod tests;
mod words;
mod writer;

use writer::Writer;

/// Rises when the same table is written differently.
const FORM: u32 = 2;

/// A resource that the API serves.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Served<'a> {
    /// Empty for the core group.
    pub group: &'a str,
    /// `v1`.
    pub version: &'a str,
    /// `Pod`.
    pub kind: &'a str,
    /// `pods`.
    pub plural: &'a str,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// `get`, `list`, `create`, `update`, `patch`, `delete`, `deletecollection`, `watch`.
    pub verbs: &'a [&'a str],
    /// What lies below an object.
    pub parts: &'a [Part<'a>],
}

/// A subresource.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Part<'a> {
    /// `status`.
    pub name: &'a str,
    /// The kind of the objects that it takes and gives.
    pub group: &'a str,
    /// Its version.
    pub version: &'a str,
    /// Its name.
    pub kind: &'a str,
    /// `get`, `create`, `update`, `patch`.
    pub verbs: &'a [&'a str],
}

/// How documents of a version of OpenAPI differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edition {
    V2,
    V3,
}

/// The document of `/openapi/v3`: where the others are. The hash in an address changes with the document.
#[must_use]
pub fn index(served: &[Served<'_>]) -> Value {
    let mut paths: BTreeMap<String, DefaultHasher> = BTreeMap::new();
    for row in served {
        let path = group_version_path(row.group, row.version);
        let hasher = paths.entry(path).or_insert_with(|| {
            let mut hasher = DefaultHasher::new();
            (DIGEST, FORM, env!("CARGO_PKG_VERSION")).hash(&mut hasher);
            hasher
        });
        row.hash(hasher);
    }
    let paths: Map<String, Value> = paths
        .into_iter()
        .map(|(path, hasher)| {
            let url = format!("/openapi/v3/{path}?hash={:016X}", hasher.finish());
            (path, json!({ "serverRelativeURL": url }))
        })
        .collect();
    json!({ "paths": paths })
}

/// The document of `/openapi/v3/{path}`, where the path is `api/v1` or `apis/apps/v1`; nothing if no resource is served there.
#[must_use]
pub fn v3(path: &str, served: &[Served<'_>]) -> Option<Vec<u8>> {
    let here: Vec<Served<'_>> =
        served.iter().filter(|row| group_version_path(row.group, row.version) == path).copied().collect();
    if here.is_empty() {
        return None;
    }
    let mut out = Writer::new();
    out.object(|out| {
        out.text("openapi", "3.0.0");
        out.field("info").object(info);
        let types = paths::write(out, &here, Edition::V3);
        out.field("components").object(|out| {
            schema::write(out.field("schemas"), types, Edition::V3);
            out.field("securitySchemes").object(security);
        });
    });
    Some(out.finish())
}

/// The document of `/openapi/v2` as `application/com.github.proto-openapi.spec.v2.v1.0+protobuf`: definitions alone.
#[must_use]
pub fn v2_protobuf(served: &[Served<'_>]) -> Vec<u8> {
    let list = |row: &Served<'_>| kind(row.group, row.version, &format!("{}List", row.kind));
    let own = |row: &Served<'_>| kind(row.group, row.version, row.kind);
    let parts = |row: &Served<'_>| {
        row.parts.iter().filter_map(|part| kind(part.group, part.version, part.kind)).collect::<Vec<_>>()
    };
    binary::document(
        served.iter().flat_map(|row| own(row).into_iter().chain(list(row)).chain(parts(row))).collect(),
    )
}

/// The document of `/openapi/v2`: everything in one.
#[must_use]
pub fn v2(served: &[Served<'_>]) -> Vec<u8> {
    let mut out = Writer::new();
    out.object(|out| {
        out.text("swagger", "2.0");
        out.field("info").object(info);
        let types = paths::write(out, served, Edition::V2);
        schema::write(out.field("definitions"), types, Edition::V2);
        out.field("securityDefinitions").object(security);
    });
    out.finish()
}

fn info(out: &mut Writer) {
    out.text("title", "Kubernetes");
    out.text("version", "v1.36.2");
}

fn security(out: &mut Writer) {
    out.field("BearerToken").object(|out| {
        out.text("type", "apiKey");
        out.text("description", "Bearer Token authentication");
        out.text("name", "authorization");
        out.text("in", "header");
    });
}

fn group_version_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// The type of a kind, or of the list of it.
fn kind(group: &str, version: &str, kind: &str) -> Option<TypeRef> {
    reference_of(group, version, kind)
}
