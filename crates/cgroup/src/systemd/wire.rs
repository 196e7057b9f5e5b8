//! The D-Bus wire format (D-Bus Specification 0.43, "Message Protocol"): pure, with bounds on everything that comes in.

mod read;

use crate::{Error, Kind, Result};

pub(super) use read::{Header, body, header, length};

/// The longest message that is read, in bytes. The format's own limit is 128 MiB; what systemd answers here has some 100.
pub(super) const MAX_MESSAGE: usize = 1 << 20;

/// How deep values may be nested.
const MAX_DEPTH: usize = 16;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Call = 1,
    Return = 2,
    Error = 3,
    Signal = 4,
}

/// A value with its type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// Elements, and their type also for an empty array.
    Array(&'static str, Vec<Self>),
    Bool(bool),
    Byte(u8),
    I32(i32),
    ObjectPath(String),
    Str(String),
    Struct(Vec<Self>),
    U32(u32),
    U64(u64),
    Variant(Box<Self>),
    /// Of a type that nothing here looks at.
    Other,
}

impl Value {
    pub(super) fn str(text: impl Into<String>) -> Self {
        Self::Str(text.into())
    }

    pub(super) fn variant(self) -> Self {
        Self::Variant(Box::new(self))
    }

    fn signature(&self) -> String {
        match self {
            Self::Array(element, _) => format!("a{element}"),
            Self::Bool(_) => "b".to_owned(),
            Self::Byte(_) => "y".to_owned(),
            Self::I32(_) => "i".to_owned(),
            Self::ObjectPath(_) => "o".to_owned(),
            Self::Str(_) => "s".to_owned(),
            Self::Struct(fields) => format!("({})", fields.iter().map(Self::signature).collect::<String>()),
            Self::U32(_) => "u".to_owned(),
            Self::U64(_) => "t".to_owned(),
            Self::Variant(_) => "v".to_owned(),
            Self::Other => String::new(),
        }
    }
}

/// A call, or in tests anything else, to be sent.
#[derive(Clone, Debug)]
pub(super) struct Message<'a> {
    pub(super) kind: Type,
    pub(super) serial: u32,
    /// Code and value of the header's fields.
    pub(super) fields: &'a [(u8, Value)],
    pub(super) body: &'a [Value],
}

/// Codes of the header's fields.
pub(super) mod field {
    pub(in super::super) const PATH: u8 = 1;
    pub(in super::super) const INTERFACE: u8 = 2;
    pub(in super::super) const MEMBER: u8 = 3;
    pub(in super::super) const ERROR_NAME: u8 = 4;
    pub(in super::super) const REPLY_SERIAL: u8 = 5;
    pub(in super::super) const DESTINATION: u8 = 6;
    pub(in super::super) const SIGNATURE: u8 = 8;
}

impl Message<'_> {
    /// The bytes of the message, little endian.
    ///
    /// # Errors
    /// `Invalid` for a text with a NUL byte, and beyond the limits of the format.
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        for value in self.body {
            put(&mut body, value)?;
        }
        let mut bytes = vec![b'l', self.kind as u8, 0, 1];
        bytes.extend(size(body.len())?.to_le_bytes());
        bytes.extend(self.serial.to_le_bytes());
        let mut fields = Vec::new();
        for (code, value) in self.fields {
            fields.push(Value::Struct(vec![Value::Byte(*code), value.clone().variant()]));
        }
        let signature: String = self.body.iter().map(Value::signature).collect();
        put(&mut bytes, &Value::Array("(yv)", fields))?;
        if !signature.is_empty() {
            put_signature_field(&mut bytes, &signature)?;
        }
        align(&mut bytes, 8);
        bytes.extend(body);
        if bytes.len() > MAX_MESSAGE {
            return Err(invalid("a message of more than 1 MiB"));
        }
        Ok(bytes)
    }
}

/// Appends the field of the body's type to the array of fields, which begins at byte 12 and is the last so far. Apart from
/// the others, because nothing else is of the type "signature".
fn put_signature_field(bytes: &mut Vec<u8>, signature: &str) -> Result<()> {
    align(bytes, 8);
    bytes.extend([field::SIGNATURE, 1, b'g', 0]);
    let length = u8::try_from(signature.len()).map_err(|_| invalid("a type of more than 255 bytes"))?;
    bytes.push(length);
    bytes.extend(signature.as_bytes());
    bytes.push(0);
    let length = size(bytes.len() - 16)?;
    bytes[12..16].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

fn put(bytes: &mut Vec<u8>, value: &Value) -> Result<()> {
    match value {
        Value::Array(element, values) => {
            align(bytes, 4);
            let at = bytes.len();
            bytes.extend([0; 4]);
            align(bytes, alignment(element.as_bytes().first().copied()));
            let start = bytes.len();
            values.iter().try_for_each(|value| put(bytes, value))?;
            let length = size(bytes.len() - start)?;
            bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
        }
        Value::Bool(value) => put_u32(bytes, u32::from(*value)),
        Value::Byte(value) => bytes.push(*value),
        Value::I32(value) => put_u32(bytes, value.cast_unsigned()),
        Value::ObjectPath(text) | Value::Str(text) => {
            if text.contains('\0') {
                return Err(invalid("a text with a NUL byte"));
            }
            put_u32(bytes, size(text.len())?);
            bytes.extend(text.as_bytes());
            bytes.push(0);
        }
        Value::Struct(fields) => {
            align(bytes, 8);
            fields.iter().try_for_each(|value| put(bytes, value))?;
        }
        Value::U32(value) => put_u32(bytes, *value),
        Value::U64(value) => {
            align(bytes, 8);
            bytes.extend(value.to_le_bytes());
        }
        Value::Variant(value) => {
            let signature = value.signature();
            bytes.push(u8::try_from(signature.len()).map_err(|_| invalid("a type of more than 255 bytes"))?);
            bytes.extend(signature.as_bytes());
            bytes.push(0);
            put(bytes, value)?;
        }
        Value::Other => return Err(invalid("a value of an unknown type")),
    }
    Ok(())
}

fn put_u32(bytes: &mut Vec<u8>, value: u32) {
    align(bytes, 4);
    bytes.extend(value.to_le_bytes());
}

fn align(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

/// To what a value of a type is aligned; 1 for what is none.
fn alignment(code: Option<u8>) -> usize {
    match code {
        Some(b'n' | b'q') => 2,
        Some(b'b' | b'i' | b'u' | b'h' | b's' | b'o' | b'a') => 4,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 1,
    }
}

fn size(length: usize) -> Result<u32> {
    u32::try_from(length)
        .ok()
        .filter(|length| *length <= 1 << 20)
        .ok_or_else(|| invalid("a value of more than 1 MiB"))
}

fn invalid(what: &str) -> Error {
    Error::refused(Kind::Invalid, format!("cannot be told to systemd: {what}"))
}
