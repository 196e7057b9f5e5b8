//! Reads JSON by a type, as Go does.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};

use super::{Decoded, Strictness, field_error, judged};
use crate::quantity::Quantity;
use crate::scan::{Reader, compact};
use crate::table::{Field, Shape, TypeRef};
use crate::{Error, Kind, Type, time};

/// Go reports no more than these.
const MAX_STRICT_ERRORS: usize = 100;

/// Which of Kubernetes' two readers is followed. They take the same but for whole numbers with a fraction of zero, and
/// have words of their own for values of wrong types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// The one for what a strategic merge patch made.
    Conversion,
    /// The one for JSON.
    Json,
}

/// Reads well formed text; `found` are strict errors that are known already.
pub(super) fn decode(
    bytes: &[u8],
    ty: &Type,
    strictness: Strictness,
    by: By,
    found: Vec<String>,
) -> Result<Decoded, Error> {
    let mut decoder = Decoder {
        reader: Reader::new(bytes),
        by,
        strict: strictness != Strictness::Ignore,
        strict_path: String::new(),
        found,
        ty: "",
        path: String::new(),
        saved: None,
        depth: 0,
        raw: Vec::new(),
    };
    let value = match decoder.reader.peek() {
        b'{' => Value::Object(decoder.object(ty)?),
        first => {
            let text = format!("json: cannot unmarshal {} into Go value of type {}", named(first), ty.go());
            return Err(Error::new(Kind::Type, text));
        }
    };
    if let Some(error) = decoder.saved {
        return Err(Error::new(Kind::Type, error));
    }
    Ok(Decoded { value, raw: decoder.raw, warnings: judged(decoder.found, strictness)? })
}

/// What Go calls a value that begins with a byte.
pub(super) fn named(first: u8) -> &'static str {
    match first {
        b'{' => "object",
        b'[' => "array",
        b'"' => "string",
        b't' | b'f' => "bool",
        b'n' => "null",
        _ => "number",
    }
}

struct Decoder<'a> {
    reader: Reader<'a>,
    by: By,
    strict: bool,
    /// `spec.containers[0]`.
    strict_path: String,
    found: Vec<String>,
    /// The struct that a field belongs to, and its path without indices but with the names of embedded structs, as
    /// Go tells them.
    ty: &'static str,
    path: String,
    /// The first value of a wrong type. Reading goes on, since malformed values count more.
    saved: Option<String>,
    depth: usize,
    raw: Vec<(&'static str, Box<RawValue>)>,
}

impl Decoder<'_> {
    fn object(&mut self, ty: &Type) -> Result<Map<String, Value>, Error> {
        let mut object = Map::new();
        let mut seen = vec![false; ty.fields.len()];
        let (outer, strict_length, length) = (self.ty, self.strict_path.len(), self.path.len());
        self.depth += 1;
        self.reader.enter();
        while self.reader.more() {
            let key = self.reader.key();
            let Ok(index) = ty.fields.binary_search_by(|field| field.name.cmp(key.as_ref())) else {
                self.strict_error("unknown", &key);
                self.reader.skip();
                continue;
            };
            let field = &ty.fields[index];
            if std::mem::replace(&mut seen[index], true) {
                self.strict_error("duplicate", &key);
            }
            self.ty = ty.short_name();
            self.enter(field);
            let value = self.field(field)?;
            self.strict_path.truncate(strict_length);
            self.path.truncate(length);
            self.ty = outer;
            match value {
                Some(value) if kept(field, &value) => object.insert(field.name.to_owned(), value),
                _ => object.shift_remove(field.name),
            };
        }
        self.depth -= 1;
        complete(&mut object, ty);
        Ok(object)
    }

    fn enter(&mut self, field: &Field) {
        for path in [field.embedded_in(), Some(field.name)].into_iter().flatten() {
            if !self.path.is_empty() {
                self.path.push('.');
            }
            self.path.push_str(path);
        }
        self.enter_strictly(field.name);
    }

    fn enter_strictly(&mut self, key: &str) {
        if self.strict {
            if !self.strict_path.is_empty() {
                self.strict_path.push('.');
            }
            self.strict_path.push_str(key);
        }
    }

    fn field(&mut self, field: &Field) -> Result<Option<Value>, Error> {
        if field.shape == Shape::Raw && self.depth == 1 {
            let raw = compact(self.reader.skip());
            self.raw.retain(|(name, _)| *name != field.name);
            if raw != "null" {
                let raw = RawValue::from_string(raw).map_err(|error| Error::new(Kind::Malformed, error))?;
                self.raw.push((field.name, raw));
            }
            return Ok(None);
        }
        if self.reader.peek() == b'n' && (field.pointer || !own_null(&field.shape)) {
            self.reader.skip();
            return Ok(None);
        }
        self.value(&field.shape, &|| field.go())
    }

    /// A value; nothing for null and for what has a wrong type. `go` tells the type's name.
    fn value(&mut self, shape: &Shape, go: &dyn Fn() -> String) -> Result<Option<Value>, Error> {
        let first = self.reader.peek();
        match (shape, first) {
            (Shape::Time | Shape::MicroTime, _) => return self.time(shape),
            (Shape::Quantity, _) => return self.quantity(),
            (Shape::IntOrString, _) => return self.int_or_string(),
            (
                Shape::Json
                | Shape::Fields
                | Shape::Raw
                | Shape::SchemaOrArray
                | Shape::SchemaOrBool
                | Shape::SchemaOrStrings,
                _,
            ) => return self.any(),
            (_, b'n') => {
                self.reader.skip();
                return Ok(None);
            }
            (Shape::Object(ty), b'{') => {
                return self.object(ty.get()).map(|object| Some(Value::Object(object)));
            }
            (Shape::Map(of), b'{') => return self.map(of, go).map(Some),
            (Shape::List(of), b'[') => return self.list(of, go).map(Some),
            (Shape::String | Shape::Duration, b'"') => {
                return Ok(Some(Value::String(self.reader.string().into_owned())));
            }
            (Shape::Bool, b't' | b'f') => {
                self.reader.skip();
                return Ok(Some(Value::Bool(first == b't')));
            }
            (Shape::Bytes, b'"') => return Ok(self.bytes()),
            (Shape::Int32 | Shape::Int64 | Shape::Float, b'-' | b'0'..=b'9') => {
                return Ok(self.number(shape, go));
            }
            _ => {}
        }
        let text = self.reader.skip();
        let whole = first != b'[' && first != b'{' && text.iter().all(|byte| !b".eE".contains(byte));
        self.mismatch(named(first), whole, shape, &go());
        Ok(None)
    }

    fn list(&mut self, of: &Shape, go: &dyn Fn() -> String) -> Result<Value, Error> {
        let element = || go().strip_prefix("[]").map_or_else(|| of.go(), str::to_owned);
        let length = self.strict_path.len();
        let mut list = Vec::new();
        self.depth += 1;
        self.reader.enter();
        while self.reader.more() {
            if self.strict {
                self.strict_path.push_str(&format!("[{}]", list.len()));
            }
            let value = self.value(of, &element)?;
            list.push(value.unwrap_or_else(|| zero(of)));
            self.strict_path.truncate(length);
        }
        self.depth -= 1;
        Ok(Value::Array(list))
    }

    fn map(&mut self, of: &Shape, go: &dyn Fn() -> String) -> Result<Value, Error> {
        let element = || {
            let go = go();
            let of_map = go.strip_prefix("map[").and_then(|rest| rest.split_once(']'));
            of_map.map_or_else(|| of.go(), |(_, value)| value.to_owned())
        };
        let length = self.strict_path.len();
        let mut map = Map::new();
        self.depth += 1;
        self.reader.enter();
        while self.reader.more() {
            let key = self.reader.key();
            if map.contains_key(key.as_ref()) {
                self.strict_error("duplicate", &key);
            }
            self.enter_strictly(&key);
            let value = self.value(of, &element)?;
            map.insert(key.into_owned(), value.unwrap_or_else(|| zero(of)));
            self.strict_path.truncate(length);
        }
        self.depth -= 1;
        Ok(Value::Object(map))
    }

    fn number(&mut self, shape: &Shape, go: &dyn Fn() -> String) -> Option<Value> {
        let text = String::from_utf8_lossy(self.reader.skip());
        let number = match shape {
            Shape::Int32 => text.parse::<i32>().ok().map(Number::from),
            Shape::Int64 => text.parse::<i64>().ok().map(Number::from),
            _ => text.parse::<f64>().ok().and_then(Number::from_f64),
        };
        if number.is_none() && self.by == By::Conversion {
            #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and small")]
            let whole = |float: &f64| (float.fract() == 0.0 && float.abs() < 2e9).then_some(*float as i32);
            if let Some(whole) = text.parse::<f64>().ok().as_ref().and_then(whole) {
                return Some(Value::from(whole));
            }
        }
        if number.is_none() {
            self.mismatch(&format!("number {text}"), false, shape, &go());
        }
        number.map(Value::Number)
    }

    fn bytes(&mut self) -> Option<Value> {
        let text = self.reader.string();
        // Go reads over line breaks.
        let text: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
        match STANDARD.decode(&text) {
            Ok(_) => Some(Value::String(text)),
            Err(error) => {
                let at = match error {
                    base64::DecodeError::InvalidByte(at, _)
                    | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                    _ => text.len(),
                };
                self.save(format!("illegal base64 data at input byte {at}"));
                None
            }
        }
    }

    fn time(&mut self, shape: &Shape) -> Result<Option<Value>, Error> {
        match self.reader.peek() {
            b'n' => {
                self.reader.skip();
                Ok(None)
            }
            b'"' => {
                let text = self.reader.string();
                let time = if *shape == Shape::Time { time::seconds(&text) } else { time::micros(&text) };
                time.map(|time| time.map(Value::String)).map_err(|error| Error::new(Kind::Type, error))
            }
            first => Err(self.wrong(named(first), "string")),
        }
    }

    fn quantity(&mut self) -> Result<Option<Value>, Error> {
        let raw = String::from_utf8_lossy(self.reader.skip());
        if raw == "null" {
            return Ok(Some(Value::from("0")));
        }
        let text = raw.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(&raw);
        let quantity: Quantity = text.trim().parse()?;
        Ok(Some(Value::String(quantity.to_string())))
    }

    fn int_or_string(&mut self) -> Result<Option<Value>, Error> {
        match self.reader.peek() {
            b'"' => Ok(Some(Value::String(self.reader.string().into_owned()))),
            b'n' => {
                self.reader.skip();
                Ok(Some(Value::from(0)))
            }
            first @ (b'-' | b'0'..=b'9') => {
                let text = String::from_utf8_lossy(self.reader.skip());
                let number = text.parse::<i32>();
                let what = format!("{} {text}", named(first));
                number.map(|number| Some(Value::from(number))).map_err(|_| self.wrong(&what, "int32"))
            }
            first => Err(self.wrong(named(first), "int32")),
        }
    }

    fn any(&mut self) -> Result<Option<Value>, Error> {
        let raw = self.reader.skip();
        if raw == b"null" {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(raw);
        serde_json::from_str(&text).map(Some).map_err(|error| Error::new(Kind::Malformed, error))
    }

    fn strict_error(&mut self, what: &str, key: &str) {
        if self.strict && self.found.len() < MAX_STRICT_ERRORS {
            let error = field_error(what, &self.strict_path, key);
            if !self.found.contains(&error) {
                self.found.push(error);
            }
        }
    }

    /// `whole`: a number without a fraction.
    fn mismatch(&mut self, what: &str, whole: bool, shape: &Shape, go: &str) {
        if self.saved.is_none() {
            self.saved = Some(match self.by {
                By::Json => self.unmarshal(what, go),
                By::Conversion => unconvertible(what, whole, shape, go),
            });
        }
    }

    fn save(&mut self, error: String) {
        self.saved.get_or_insert(error);
    }

    /// The error of a type that reads itself: it ends the reading.
    fn wrong(&self, what: &str, go: &str) -> Error {
        Error::new(Kind::Type, self.unmarshal(what, go))
    }

    fn unmarshal(&self, what: &str, go: &str) -> String {
        format!("json: cannot unmarshal {what} into Go struct field {}.{} of type {go}", self.ty, self.path)
    }
}

/// What Kubernetes' conversion says of a value of a wrong type.
fn unconvertible(what: &str, whole: bool, shape: &Shape, go: &str) -> String {
    let kind = match what {
        "array" => "slice",
        "object" => "map",
        "bool" | "string" => what,
        _ if whole => "int64",
        _ => "float64",
    };
    match shape {
        Shape::List(_) | Shape::Bytes => format!("cannot restore slice from {kind}"),
        Shape::Map(_) => format!("cannot restore map from {kind}"),
        Shape::Object(_) => format!("cannot restore struct from: {kind}"),
        Shape::Int32 | Shape::Int64 if kind == "float64" => format!("cannot convert float64 to {go}"),
        Shape::String if kind == "int64" => format!("cannot convert int64 to {go}"),
        other => format!("unrecognized type: {}", other.go()),
    }
}

/// The types for which null is a value of their own.
fn own_null(shape: &Shape) -> bool {
    matches!(shape, Shape::Quantity)
}

/// Whether Go writes the value of a field again.
fn kept(field: &Field, value: &Value) -> bool {
    if field.pointer || field.always {
        return true;
    }
    match (&field.shape, value) {
        (Shape::IntOrString | Shape::Quantity, _) => true,
        (Shape::Object(_), Value::Object(object)) => !(field.omit_zero && object.is_empty()),
        (_, Value::Bool(value)) => *value,
        (_, Value::String(text)) => !text.is_empty(),
        (_, Value::Number(number)) => number.as_f64() != Some(0.0),
        (Shape::List(_), Value::Array(list)) => !list.is_empty(),
        (Shape::Map(_), Value::Object(map)) => !map.is_empty(),
        _ => true,
    }
}

/// Adds what Go writes even when nothing was given.
fn complete(object: &mut Map<String, Value>, ty: &Type) {
    for field in &ty.fields {
        let given = match &field.shape {
            _ if field.pointer => None,
            Shape::Object(of) if !field.omit_zero => Some(*of),
            Shape::Bool | Shape::Float | Shape::Int32 | Shape::Int64 | Shape::String if field.always => {
                if !object.contains_key(field.name) {
                    object.insert(field.name.to_owned(), zero(&field.shape));
                }
                None
            }
            _ => None,
        };
        if let Some(of) = given
            && !object.contains_key(field.name)
        {
            object.insert(field.name.to_owned(), empty(of));
        }
    }
}

fn empty(ty: TypeRef) -> Value {
    let mut object = Map::new();
    complete(&mut object, ty.get());
    Value::Object(object)
}

/// What Go has where nothing was given.
fn zero(shape: &Shape) -> Value {
    match shape {
        Shape::Bool => Value::Bool(false),
        Shape::Float | Shape::Int32 | Shape::Int64 | Shape::IntOrString => Value::from(0),
        Shape::String | Shape::Bytes | Shape::Duration => Value::from(""),
        Shape::Quantity => Value::from("0"),
        Shape::Object(ty) => empty(*ty),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Map(_) => Value::Object(Map::new()),
        _ => Value::Null,
    }
}
