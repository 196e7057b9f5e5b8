//! The schemas in the protobuf form of OpenAPI 2 (gnostic's `openapi.v2.Document`): kubectl reads the second version in no
//! other, and asks for it to check what its way by the third cannot: lists, and kinds that cannot be patched.
//!
//! There are no paths and no descriptions: without paths kubectl takes it that the server does not check and
//! does so itself, by the definitions.

use std::collections::BTreeSet;

use super::schema::{reachable, simple};
use crate::Type;
use crate::table::{Shape, TypeRef};

/// A message as it grows.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn bytes(&mut self, number: u32, bytes: &[u8]) {
        self.varint(u64::from(number) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, number: u32, text: &str) {
        self.bytes(number, text.as_bytes());
    }

    fn message(&mut self, number: u32, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        fill(&mut inner);
        self.bytes(number, &inner.0);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }
}

/// The numbers of the fields that are written.
mod number {
    pub(super) const SWAGGER: u32 = 1;
    pub(super) const INFO: u32 = 2;
    pub(super) const PATHS: u32 = 8;
    pub(super) const DEFINITIONS: u32 = 9;
    /// Of `Schema`.
    pub(super) const REFERENCE: u32 = 1;
    pub(super) const FORMAT: u32 = 2;
    pub(super) const REQUIRED: u32 = 19;
    pub(super) const ADDITIONAL_PROPERTIES: u32 = 21;
    pub(super) const TYPE: u32 = 22;
    pub(super) const ITEMS: u32 = 23;
    pub(super) const PROPERTIES: u32 = 25;
    pub(super) const EXTENSION: u32 = 31;
}

/// The document with the schemas of the types and of what they are made of.
pub(super) fn document(roots: BTreeSet<TypeRef>) -> Vec<u8> {
    let mut out = Message::default();
    out.text(number::SWAGGER, "2.0");
    out.message(number::INFO, |out| {
        out.text(1, "Kubernetes");
        out.text(2, "v1.36.2");
    });
    out.message(number::PATHS, |_| {});
    out.message(number::DEFINITIONS, |out| {
        for (name, ty) in reachable(roots) {
            named(out, name, |out| match ty {
                Some(ty) => object(out, &ty.read()),
                None => special(out, name),
            });
        }
    });
    out.0
}

/// A `NamedSchema`.
fn named(out: &mut Message, name: &str, fill: impl FnOnce(&mut Message)) {
    out.message(1, |out| {
        out.text(1, name);
        out.message(2, fill);
    });
}

fn typed(out: &mut Message, name: &str) {
    out.message(number::TYPE, |out| out.text(1, name));
}

fn object(out: &mut Message, ty: &Type) {
    for field in ty.fields.iter().filter(|field| field.required) {
        out.text(number::REQUIRED, field.name);
    }
    typed(out, "object");
    if !ty.fields.is_empty() {
        out.message(number::PROPERTIES, |out| {
            for field in &ty.fields {
                named(out, field.name, |out| shape(out, &field.shape));
            }
        });
    }
    if let Some(kind) = ty.kind {
        out.message(number::EXTENSION, |out| {
            out.text(1, "x-kubernetes-group-version-kind");
            let yaml = format!(
                "- group: \"{}\"\n  kind: {}\n  version: {}\n",
                super::schema::group_of(ty, kind),
                kind.kind,
                kind.version
            );
            out.message(2, |out| out.text(2, &yaml));
        });
    }
}

fn shape(out: &mut Message, of: &Shape) {
    let mut formatted = |name, format| {
        out.text(number::FORMAT, format);
        typed(out, name);
    };
    match of {
        Shape::Bytes => formatted("string", "byte"),
        Shape::Float => formatted("number", "double"),
        Shape::Int32 => formatted("integer", "int32"),
        Shape::Int64 => formatted("integer", "int64"),
        Shape::Bool => typed(out, "boolean"),
        Shape::String => typed(out, "string"),
        Shape::List(of) => {
            typed(out, "array");
            out.message(number::ITEMS, |out| out.message(1, |out| shape(out, of)));
        }
        Shape::Map(of) => {
            out.message(number::ADDITIONAL_PROPERTIES, |out| out.message(1, |out| shape(out, of)));
            typed(out, "object");
        }
        Shape::Object(ty) => refer(out, ty.name()),
        other => refer(out, simple(other).unwrap_or_default()),
    }
}

fn refer(out: &mut Message, name: &str) {
    out.text(number::REFERENCE, &format!("#/definitions/{name}"));
}

/// A type that is no object with fields.
fn special(out: &mut Message, name: &str) {
    match name.rsplit('.').next().unwrap_or_default() {
        "IntOrString" => {
            out.text(number::FORMAT, "int-or-string");
            typed(out, "string");
        }
        "MicroTime" | "Time" => {
            out.text(number::FORMAT, "date-time");
            typed(out, "string");
        }
        "Duration" | "Quantity" => typed(out, "string"),
        "FieldsV1" | "RawExtension" => typed(out, "object"),
        _ => {}
    }
}
