//! The paths and what can be done at them.

use std::collections::BTreeSet;

use super::schema::refer;
use super::{Edition, Part, Served, Writer, kind};
use crate::table::{TypeRef, reference};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const PATCHES: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"];

/// Writes the member `paths`; gives the types that they name.
pub(super) fn write(out: &mut Writer, served: &[Served<'_>], edition: Edition) -> BTreeSet<TypeRef> {
    let mut types = BTreeSet::new();
    for name in ["APIResourceList", "DeleteOptions", "Patch", "Status", "WatchEvent"] {
        types.extend(reference(META, name));
    }
    out.field("paths").object(|out| {
        for (group, version) in served.iter().map(|row| (row.group, row.version)).collect::<BTreeSet<_>>() {
            list_of_resources(out, group, version, edition);
        }
        for row in served {
            types.extend(kind(row.group, row.version, row.kind));
            types.extend(kind(row.group, row.version, &format!("{}List", row.kind)));
            resource(out, row, edition);
            for part in row.parts {
                types.extend(kind(part.group, part.version, part.kind));
                subresource(out, row, part, edition);
            }
        }
    });
    types
}

/// `/api/v1`, `/apis/apps/v1`.
fn prefix(group: &str, version: &str) -> String {
    format!("/{}", super::group_version_path(group, version))
}

fn list_of_resources(out: &mut Writer, group: &str, version: &str, edition: Edition) {
    out.field(&format!("{}/", prefix(group, version))).object(|out| {
        out.field("get").object(|out| {
            out.texts("tags", [tag(group, version).as_str()]);
            out.text("description", "get available resources");
            out.text("operationId", &format!("get{}APIResources", camel(group, version)));
            responses(out, &format!("{META}.APIResourceList"), false, edition);
        });
    });
}

fn resource(out: &mut Writer, row: &Served<'_>, edition: Edition) {
    let base = prefix(row.group, row.version);
    let scope = if row.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{base}{scope}/{}", row.plural);
    let operations = |wanted: &[(&'static str, &'static str)]| -> Vec<Operation<'_>> {
        let has = |verb: &str| row.verbs.contains(&verb);
        let own = |(method, verb): &(&'static str, &'static str)| {
            has(verb).then_some(Operation { method, verb, row, part: None })
        };
        wanted.iter().filter_map(own).collect()
    };
    let all = operations(&[("get", "list"), ("post", "create"), ("delete", "deletecollection")]);
    path(out, &collection, &all, row.namespaced, false, edition);
    let one = operations(&[("get", "get"), ("put", "update"), ("delete", "delete"), ("patch", "patch")]);
    path(out, &format!("{collection}/{{name}}"), &one, row.namespaced, true, edition);
    if row.namespaced {
        let everywhere = operations(&[("get", "list")]);
        path(out, &format!("{base}/{}", row.plural), &everywhere, false, false, edition);
    }
}

fn subresource(out: &mut Writer, row: &Served<'_>, part: &Part<'_>, edition: Edition) {
    let base = prefix(row.group, row.version);
    let scope = if row.namespaced { "/namespaces/{namespace}" } else { "" };
    let wanted = [("get", "get"), ("post", "create"), ("put", "update"), ("patch", "patch")];
    let operations: Vec<Operation<'_>> = wanted
        .into_iter()
        .filter(|(_, verb)| part.verbs.contains(verb))
        .map(|(method, verb)| Operation { method, verb, row, part: Some(part) })
        .collect();
    let address = format!("{base}{scope}/{}/{{name}}/{}", row.plural, part.name);
    path(out, &address, &operations, row.namespaced, true, edition);
}

struct Operation<'a> {
    method: &'static str,
    verb: &'static str,
    row: &'a Served<'a>,
    part: Option<&'a Part<'a>>,
}

fn path(
    out: &mut Writer,
    address: &str,
    operations: &[Operation<'_>],
    namespaced: bool,
    named: bool,
    edition: Edition,
) {
    if operations.is_empty() {
        return;
    }
    out.field(address).object(|out| {
        for operation in operations {
            operation.write(out.field(operation.method), namespaced, edition);
        }
        if named || namespaced {
            out.field("parameters").list(|out| {
                if named {
                    parameter(out, "name", "path", "string", edition);
                }
                if namespaced {
                    parameter(out, "namespace", "path", "string", edition);
                }
            });
        }
    });
}

impl Operation<'_> {
    fn write(&self, out: &mut Writer, namespaced: bool, edition: Edition) {
        let row = self.row;
        let (group, version, kind) = self
            .part
            .map_or((row.group, row.version, row.kind), |part| (part.group, part.version, part.kind));
        let of_kind = super::kind(group, version, kind).map_or("", TypeRef::name);
        let list =
            super::kind(row.group, row.version, &format!("{}List", row.kind)).map_or("", TypeRef::name);
        let (word, body, answer) = match self.verb {
            "list" => ("list", None, list),
            "create" => ("create", Some(of_kind), of_kind),
            "update" => ("replace", Some(of_kind), of_kind),
            "patch" => ("patch", Some(PATCH), of_kind),
            "delete" => ("delete", Some(DELETE_OPTIONS), STATUS),
            "deletecollection" => ("deletecollection", Some(DELETE_OPTIONS), STATUS),
            _ => ("read", None, of_kind),
        };
        out.object(|out| {
            out.texts("tags", [tag(row.group, row.version).as_str()]);
            out.text("operationId", &self.id(word, namespaced));
            if edition == Edition::V2 {
                out.texts("produces", ["application/json"]);
                out.texts("consumes", if self.verb == "patch" { PATCHES.to_vec() } else { vec!["*/*"] });
            }
            self.parameters(out, body, edition);
            if let (Some(body), Edition::V3) = (body, edition) {
                out.field("requestBody").object(|out| {
                    out.field("content").object(|out| {
                        let media: &[&str] = if self.verb == "patch" { &PATCHES } else { &["*/*"] };
                        for media in media {
                            out.field(media).object(|out| schema(out, body, edition));
                        }
                    });
                });
            }
            responses(out, answer, self.verb == "create", edition);
            out.text(
                "x-kubernetes-action",
                match self.verb {
                    "create" => "post",
                    "update" => "put",
                    other => other,
                },
            );
            out.field("x-kubernetes-group-version-kind").object(|out| {
                out.text("group", group);
                out.text("version", version);
                out.text("kind", kind);
            });
        });
    }

    fn parameters(&self, out: &mut Writer, body: Option<&str>, edition: Edition) {
        let query: &[(&str, &str)] = match self.verb {
            "create" | "update" => {
                &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")]
            }
            "patch" => &[
                ("dryRun", "string"),
                ("fieldManager", "string"),
                ("fieldValidation", "string"),
                ("force", "boolean"),
            ],
            "delete" => {
                &[("dryRun", "string"), ("gracePeriodSeconds", "integer"), ("propagationPolicy", "string")]
            }
            "list" | "deletecollection" => &[
                ("allowWatchBookmarks", "boolean"),
                ("continue", "string"),
                ("fieldSelector", "string"),
                ("labelSelector", "string"),
                ("limit", "integer"),
                ("resourceVersion", "string"),
                ("resourceVersionMatch", "string"),
                ("sendInitialEvents", "boolean"),
                ("timeoutSeconds", "integer"),
                ("watch", "boolean"),
            ],
            _ => &[],
        };
        out.field("parameters").list(|out| {
            if let (Some(body), Edition::V2) = (body, edition) {
                out.object(|out| {
                    out.text("name", "body");
                    out.text("in", "body");
                    schema(out, body, edition);
                });
            }
            for (name, kind) in query {
                parameter(out, name, "query", kind, edition);
            }
        });
    }

    /// `readCoreV1NamespacedPodStatus`.
    fn id(&self, word: &str, namespaced: bool) -> String {
        let row = self.row;
        let (word, collection) =
            if word == "deletecollection" { ("delete", "Collection") } else { (word, "") };
        let scope = if namespaced { "Namespaced" } else { "" };
        let part = self.part.map_or(String::new(), |part| capital(part.name));
        // The list of all namespaces has a name of its own.
        let everywhere =
            if self.verb == "list" && row.namespaced && !namespaced { "ForAllNamespaces" } else { "" };
        format!("{word}{}{collection}{scope}{}{part}{everywhere}", camel(row.group, row.version), row.kind)
    }
}

fn parameter(out: &mut Writer, name: &str, place: &str, kind: &str, edition: Edition) {
    out.object(|out| {
        out.text("name", name);
        out.text("in", place);
        if place == "path" {
            out.raw("required", "true");
        }
        match edition {
            Edition::V2 => out.text("type", kind),
            Edition::V3 => out.field("schema").object(|out| {
                out.text("type", kind);
                out.raw("uniqueItems", "true");
            }),
        }
    });
}

fn responses(out: &mut Writer, answer: &str, created: bool, edition: Edition) {
    out.field("responses").object(|out| {
        let words: &[(&str, &str)] =
            if created { &[("200", "OK"), ("201", "Created")] } else { &[("200", "OK")] };
        for (code, word) in words {
            out.field(code).object(|out| {
                out.text("description", word);
                match edition {
                    _ if answer.is_empty() => {}
                    Edition::V2 => schema(out, answer, edition),
                    Edition::V3 => out.field("content").object(|out| {
                        out.field("application/json").object(|out| schema(out, answer, edition));
                    }),
                }
            });
        }
        out.field("401").object(|out| out.text("description", "Unauthorized"));
    });
}

fn schema(out: &mut Writer, name: &str, edition: Edition) {
    out.field("schema").object(|out| {
        if !name.is_empty() {
            refer(out, name, false, edition);
        }
    });
}

/// `core_v1`.
fn tag(group: &str, version: &str) -> String {
    format!("{}_{version}", short(group).replace('.', "_"))
}

/// `CoreV1`, `RbacAuthorizationV1`.
fn camel(group: &str, version: &str) -> String {
    short(group).split('.').map(capital).collect::<String>() + &capital(version)
}

fn short(group: &str) -> &str {
    if group.is_empty() { "core" } else { group.strip_suffix(".k8s.io").unwrap_or(group) }
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}
