//! Reads the lines of one type. Their form is told in `build/table.rs`.

use super::{BLOB, Embedded, Field, Gvk, Shape, Type, TypeRef};

/// The type of the lines.
pub(super) fn parse(lines: &'static str) -> Type {
    let (head, fields) = lines.split_once('\n').unwrap_or((lines, ""));
    let words: Vec<&str> = head.split(' ').collect();
    let word = |index: usize| words.get(index).copied().unwrap_or_default();
    let name = word(0);
    let kind = words.contains(&"kind").then(|| Gvk {
        group: if word(1) == "-" { "" } else { word(1) },
        version: word(2),
        kind: name.rsplit('.').next().unwrap_or(name),
    });
    let mut ty = Type {
        name,
        fields: Box::default(),
        embedded: Box::default(),
        kind,
        atomic: words.contains(&"atomic"),
    };
    let (mut own, mut embedded) = (Vec::new(), Vec::new());
    for line in fields.lines() {
        let line = line.strip_prefix(' ').unwrap_or(line);
        if let Some(line) = line.strip_prefix("+ ") {
            let mut words = line.split(' ');
            let go = words.next().unwrap_or_default();
            let number = words.next().and_then(|number| number.parse().ok()).unwrap_or_default();
            if let Shape::Object(of) = shape(words.next().unwrap_or_default()) {
                own.extend(of.read().fields.into_iter().map(|field| through(go, field)));
                embedded.push(Embedded { number, ty: of });
            }
        } else {
            own.push(field(line));
        }
    }
    own.sort_unstable_by_key(|field| field.name);
    ty.fields = own.into_boxed_slice();
    ty.embedded = embedded.into_boxed_slice();
    ty
}

/// The field of an embedded type as one of the type around it.
fn through(go: &str, mut field: Field) -> Field {
    field.embedded = Some(match &field.embedded {
        Some(inner) => format!("{go}.{inner}").into_boxed_str(),
        None => go.into(),
    });
    field
}

fn field(line: &'static str) -> Field {
    let mut words = line.split(' ');
    let name = words.next().unwrap_or_default();
    let number = words.next().and_then(|number| number.parse().ok()).unwrap_or_default();
    let written = words.next().unwrap_or_default();
    let written = written.split_once('=').map_or(written, |(shape, _)| shape);
    let flags = || words.clone();
    let has = |flag: &str| flags().any(|word| word == flag);
    let line = line.as_ptr() as usize - BLOB.as_ptr() as usize;
    Field {
        name,
        shape: shape(written),
        number,
        required: has("r"),
        pointer: has("*"),
        always: has("!"),
        omit_zero: has("z"),
        line: u32::try_from(line).unwrap_or_default(),
        embedded: None,
    }
}

fn shape(written: &str) -> Shape {
    if let Some(of) = written.strip_prefix('[') {
        return Shape::List(Box::new(shape(of)));
    }
    if let Some(of) = written.strip_prefix('{') {
        return Shape::Map(Box::new(shape(of)));
    }
    if let Some(id) = written.strip_prefix('<') {
        return Shape::Object(TypeRef(id.parse().unwrap_or_default()));
    }
    match written {
        "bool" => Shape::Bool,
        "bytes" => Shape::Bytes,
        "duration" => Shape::Duration,
        "fields" => Shape::Fields,
        "float" => Shape::Float,
        "int-or-string" => Shape::IntOrString,
        "int32" => Shape::Int32,
        "int64" => Shape::Int64,
        "micro-time" => Shape::MicroTime,
        "quantity" => Shape::Quantity,
        "raw" => Shape::Raw,
        "schema-or-array" => Shape::SchemaOrArray,
        "schema-or-bool" => Shape::SchemaOrBool,
        "schema-or-strings" => Shape::SchemaOrStrings,
        "string" => Shape::String,
        "time" => Shape::Time,
        _ => Shape::Json,
    }
}
