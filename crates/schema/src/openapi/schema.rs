//! The schemas of types.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::words::Words;
use super::{Edition, Writer};
use crate::Type;
use crate::table::{Field, Gvk, List, Shape, Strategy, TypeRef};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The types and what they are made of, by name; those that are no objects with fields have no place in the table.
pub(super) fn reachable(roots: BTreeSet<TypeRef>) -> BTreeMap<&'static str, Option<TypeRef>> {
    let mut names = BTreeMap::new();
    let mut waiting: Vec<TypeRef> = roots.iter().copied().collect();
    let mut seen = roots;
    while let Some(next) = waiting.pop() {
        names.insert(next.name(), Some(next));
        for field in &next.read().fields {
            let ty = match leaf(&field.shape) {
                Shape::Object(ty) => Some(*ty),
                other => {
                    names.extend(simple(other).map(|name| (name, None)));
                    None
                }
            };
            waiting.extend(ty.filter(|ty| seen.insert(*ty)));
        }
    }
    names
}

/// The group that the schema of a kind names: kinds that every group has are told as of the core group.
pub(super) fn group_of(ty: &Type, kind: Gvk) -> &'static str {
    if package_of(ty.name) == META { "" } else { kind.group }
}

/// Writes the schemas of the types, and of those that they are made of.
pub(super) fn write(out: &mut Writer, roots: BTreeSet<TypeRef>, edition: Edition) {
    let names = reachable(roots);
    out.object(|out| {
        let mut package = "";
        let mut words = Words::default();
        let mut names = names.into_iter().peekable();
        while let Some((next, _)) = names.peek() {
            // Types of a package come together: its descriptions are unpacked once.
            let here = package_of(next);
            if here != package {
                package = here;
                words = Words::of(package);
            }
            let types = words.types();
            while let Some((name, ty)) = names.next_if(|(name, _)| package_of(name) == package) {
                let short = name.rsplit('.').next().unwrap_or(name);
                let told = types.get(short);
                match ty {
                    Some(ty) => object(out.field(name), &ty.read(), told, edition),
                    None => special(out.field(name), short, told, edition),
                }
            }
        }
    });
}

fn package_of(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(package, _)| package)
}

fn object(out: &mut Writer, ty: &Type, told: Option<&HashMap<&str, &str>>, edition: Edition) {
    let told = |field: &str| told.and_then(|told| told.get(field)).copied().unwrap_or_default();
    out.object(|out| {
        if !told("").is_empty() {
            out.text("description", told(""));
        }
        out.text("type", "object");
        if !ty.fields.is_empty() {
            out.field("properties").object(|out| {
                for field in &ty.fields {
                    property(out.field(field.name), field, package_of(ty.name), told(field.name), edition);
                }
            });
        }
        let required: Vec<&str> =
            ty.fields.iter().filter(|field| field.required).map(|field| field.name).collect();
        if !required.is_empty() {
            out.texts("required", required);
        }
        if ty.atomic {
            out.text("x-kubernetes-map-type", "atomic");
        }
        if let Some(kind) = ty.kind {
            out.field("x-kubernetes-group-version-kind").list(|out| {
                out.object(|out| {
                    out.text("group", group_of(ty, kind));
                    out.text("kind", kind.kind);
                    out.text("version", kind.version);
                });
            });
        }
    });
}

fn property(out: &mut Writer, field: &Field, package: &str, told: &str, edition: Edition) {
    out.object(|out| {
        if !told.is_empty() {
            out.text("description", told);
        }
        let default = field.default().or(match &field.shape {
            _ if field.pointer => None,
            Shape::Object(_) => Some("{}"),
            Shape::String if field.always => Some("\"\""),
            Shape::Bool if field.always => Some("false"),
            Shape::Int32 | Shape::Int64 | Shape::Float if field.always => Some("0"),
            _ => None,
        });
        let values = field.values(package);
        let beside = !told.is_empty() || default.is_some();
        shape(out, &field.shape, beside, values.as_deref(), edition);
        if let Some(default) = default {
            out.raw("default", default);
        }
        match field.list() {
            List::Unset => {}
            list => {
                let (name, key) = match (list, leaf_kind(&field.shape)) {
                    (List::Atomic, kind) => ("atomic", kind),
                    (List::Granular, kind) => ("granular", kind),
                    (List::Map(_), kind) => ("map", kind),
                    (_, kind) => ("set", kind),
                };
                out.text(key, name);
                if let List::Map(_) = list {
                    out.texts("x-kubernetes-list-map-keys", list.keys());
                }
            }
        }
        if let Some(key) = field.merge_key() {
            out.text("x-kubernetes-patch-merge-key", key);
        }
        let strategy = match field.strategy() {
            Strategy::Unset => return,
            Strategy::Merge => "merge",
            Strategy::MergeRetainKeys => "merge,retainKeys",
            Strategy::Replace => "replace",
            Strategy::RetainKeys => "retainKeys",
        };
        out.text("x-kubernetes-patch-strategy", strategy);
    });
}

fn leaf_kind(shape: &Shape) -> &'static str {
    if shape.is_list() { "x-kubernetes-list-type" } else { "x-kubernetes-map-type" }
}

/// The members that tell a shape. `beside`: others stand beside them, which a reference of OpenAPI 3 does not allow.
/// `values` are those that a string may have.
fn shape(out: &mut Writer, of: &Shape, beside: bool, values: Option<&[&str]>, edition: Edition) {
    match of {
        Shape::Bool => out.text("type", "boolean"),
        Shape::Bytes => typed(out, "string", "byte"),
        Shape::Float => typed(out, "number", "double"),
        Shape::Int32 => typed(out, "integer", "int32"),
        Shape::Int64 => typed(out, "integer", "int64"),
        Shape::String => {
            out.text("type", "string");
            if let Some(values) = values {
                out.texts("enum", values.iter().copied());
            }
        }
        Shape::List(of) => {
            out.text("type", "array");
            out.field("items").object(|out| shape(out, of, false, values, edition));
        }
        Shape::Map(of) => {
            out.text("type", "object");
            out.field("additionalProperties").object(|out| shape(out, of, false, values, edition));
        }
        Shape::Object(ty) => refer(out, ty.name(), beside, edition),
        other => refer(out, simple(other).unwrap_or_default(), beside, edition),
    }
}

fn typed(out: &mut Writer, kind: &str, format: &str) {
    out.text("type", kind);
    out.text("format", format);
}

/// A reference to a schema.
pub(super) fn refer(out: &mut Writer, name: &str, beside: bool, edition: Edition) {
    match edition {
        Edition::V2 => out.text("$ref", &format!("#/definitions/{name}")),
        Edition::V3 if beside => {
            out.field("allOf").list(|out| {
                out.object(|out| out.text("$ref", &format!("#/components/schemas/{name}")));
            });
        }
        Edition::V3 => out.text("$ref", &format!("#/components/schemas/{name}")),
    }
}

fn leaf(shape: &Shape) -> &Shape {
    match shape {
        Shape::List(of) | Shape::Map(of) => leaf(of),
        other => other,
    }
}

/// The names of types that are no objects with fields.
pub(super) fn simple(shape: &Shape) -> Option<&'static str> {
    Some(match shape {
        Shape::Duration => "io.k8s.apimachinery.pkg.apis.meta.v1.Duration",
        Shape::Fields => "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
        Shape::IntOrString => "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
        Shape::Json => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
        Shape::MicroTime => "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime",
        Shape::Quantity => "io.k8s.apimachinery.pkg.api.resource.Quantity",
        Shape::Raw => "io.k8s.apimachinery.pkg.runtime.RawExtension",
        Shape::SchemaOrArray => {
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray"
        }
        Shape::SchemaOrBool => {
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool"
        }
        Shape::SchemaOrStrings => {
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray"
        }
        Shape::Time => "io.k8s.apimachinery.pkg.apis.meta.v1.Time",
        _ => return None,
    })
}

/// The schema of a type that is no object with fields.
fn special(out: &mut Writer, name: &str, told: Option<&HashMap<&str, &str>>, edition: Edition) {
    let one_of = |out: &mut Writer, kinds: [&str; 2]| {
        out.field("oneOf").list(|out| kinds.iter().for_each(|kind| out.object(|out| out.text("type", kind))));
    };
    out.object(|out| {
        if let Some(words) = told.and_then(|told| told.get("")).filter(|words| !words.is_empty()) {
            out.text("description", words);
        }
        match name {
            "IntOrString" if edition == Edition::V3 => {
                out.text("format", "int-or-string");
                one_of(out, ["integer", "string"]);
            }
            "IntOrString" => typed(out, "string", "int-or-string"),
            "Quantity" if edition == Edition::V3 => one_of(out, ["string", "number"]),
            "Duration" | "Quantity" => out.text("type", "string"),
            "MicroTime" | "Time" => typed(out, "string", "date-time"),
            "FieldsV1" | "RawExtension" => out.text("type", "object"),
            _ => {}
        }
    });
}
