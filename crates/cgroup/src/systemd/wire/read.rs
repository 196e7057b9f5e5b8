//! Reading messages. They come from systemd or a bus, and are believed no further than their bytes go.

use super::{MAX_DEPTH, MAX_MESSAGE, Type, Value, alignment, field};
use crate::{Error, Kind, Result};

/// What a message says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in super::super) struct Header {
    /// None for a type of message that is not known, which is to be passed over.
    pub(in super::super) kind: Option<Type>,
    pub(in super::super) path: String,
    pub(in super::super) interface: String,
    pub(in super::super) member: String,
    pub(in super::super) error_name: String,
    pub(in super::super) reply_serial: u32,
    signature: String,
    big_endian: bool,
    body: usize,
}

/// How long the message is that begins with these bytes; none when there are too few to tell.
///
/// # Errors
/// `Invalid` for what is no message, or one of more than 1 MiB.
pub(in super::super) fn length(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(start) = bytes.first_chunk::<16>() else { return Ok(None) };
    let big_endian = match start[0] {
        b'l' => false,
        b'B' => true,
        _ => return Err(garbled("no message begins like that")),
    };
    if start[3] != 1 {
        return Err(garbled("an unknown version of the protocol"));
    }
    let number = |at: usize| {
        let bytes = [start[at], start[at + 1], start[at + 2], start[at + 3]];
        usize::try_from(if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
            .unwrap_or(usize::MAX)
    };
    let (body, fields) = (number(4), number(12));
    if body > MAX_MESSAGE || fields > MAX_MESSAGE {
        return Err(garbled("a message of more than 1 MiB"));
    }
    let total = (16 + fields).next_multiple_of(8) + body;
    if total > MAX_MESSAGE { Err(garbled("a message of more than 1 MiB")) } else { Ok(Some(total)) }
}

/// Reads the header of a whole message.
///
/// # Errors
/// `Invalid` for what is no message.
pub(in super::super) fn header(message: &[u8]) -> Result<Header> {
    let total = length(message)?.filter(|length| *length == message.len());
    total.ok_or_else(|| garbled("a message that is cut off"))?;
    let mut reader = Reader { bytes: message, at: 4, big_endian: message[0] == b'B' };
    let mut header = Header { big_endian: reader.big_endian, ..Header::default() };
    header.kind = match message[1] {
        1 => Some(Type::Call),
        2 => Some(Type::Return),
        3 => Some(Type::Error),
        4 => Some(Type::Signal),
        _ => None,
    };
    let body = reader.u32()?;
    reader.u32()?;
    let end = reader.u32()? as usize + reader.at;
    while reader.at < end {
        reader.align(8)?;
        let code = reader.byte()?;
        let signature = reader.signature()?;
        let mut value = Value::Other;
        let mut text = String::new();
        match first_type(&signature)? {
            ("g", "") => text = reader.signature()?,
            (one, "") => value = reader.single(one, 0)?,
            _ => return Err(garbled("a variant of several types")),
        }
        if let Value::Str(from) | Value::ObjectPath(from) = &mut value {
            text = std::mem::take(from);
        }
        match (code, value) {
            (field::PATH, _) => header.path = text,
            (field::INTERFACE, _) => header.interface = text,
            (field::MEMBER, _) => header.member = text,
            (field::ERROR_NAME, _) => header.error_name = text,
            (field::REPLY_SERIAL, Value::U32(serial)) => header.reply_serial = serial,
            (field::SIGNATURE, _) => header.signature = text,
            _ => {}
        }
    }
    header.body = message.len() - body as usize;
    if reader.at > header.body {
        return Err(garbled("header fields that reach into the body"));
    }
    Ok(header)
}

/// Reads the values of a message with this header.
///
/// # Errors
/// `Invalid` for what does not fit its type.
pub(in super::super) fn body(header: &Header, message: &[u8]) -> Result<Vec<Value>> {
    let bytes = message.get(header.body..).unwrap_or_default();
    let mut reader = Reader { bytes, at: 0, big_endian: header.big_endian };
    let mut values = Vec::new();
    let mut rest = header.signature.as_str();
    while !rest.is_empty() {
        let (one, others) = first_type(rest)?;
        values.push(reader.single(one, 0)?);
        rest = others;
    }
    Ok(values)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| garbled("a value that is cut off"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn align(&mut self, to: usize) -> Result<()> {
        self.take(self.at.next_multiple_of(to) - self.at).map(drop)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32> {
        self.align(4)?;
        let bytes: [u8; 4] = self.take(4)?.try_into().unwrap_or_default();
        Ok(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn u64(&mut self) -> Result<u64> {
        self.align(8)?;
        let bytes: [u8; 8] = self.take(8)?.try_into().unwrap_or_default();
        Ok(if self.big_endian { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) })
    }

    fn text(&mut self, length: usize) -> Result<String> {
        let text =
            std::str::from_utf8(self.take(length)?).map_err(|_| garbled("a text that is not UTF-8"))?;
        if self.byte()? != 0 || text.contains('\0') {
            return Err(garbled("a text that does not end with NUL"));
        }
        Ok(text.to_owned())
    }

    fn signature(&mut self) -> Result<String> {
        let length = self.byte()?;
        self.text(length.into())
    }

    /// A value of one complete type, as [`first_type`] finds it.
    fn single(&mut self, kind: &str, depth: usize) -> Result<Value> {
        if depth > MAX_DEPTH {
            return Err(garbled("values that are nested too deep"));
        }
        let code = kind.bytes().next();
        match code {
            Some(b'y') => return Ok(Value::Byte(self.byte()?)),
            Some(b'b') => return Ok(Value::Bool(self.u32()? != 0)),
            Some(b'i') => return Ok(Value::I32(self.u32()?.cast_signed())),
            Some(b'u') => return Ok(Value::U32(self.u32()?)),
            Some(b't') => return Ok(Value::U64(self.u64()?)),
            Some(b'n' | b'q') => {
                self.align(2)?;
                self.take(2)?;
            }
            Some(b'h') => drop(self.u32()?),
            Some(b'x' | b'd') => drop(self.u64()?),
            Some(b's' | b'o') => {
                let length = self.u32()? as usize;
                let text = self.text(length)?;
                return Ok(if code == Some(b'o') { Value::ObjectPath(text) } else { Value::Str(text) });
            }
            Some(b'g') => drop(self.signature()?),
            Some(b'v') => {
                let inner = self.signature()?;
                match first_type(&inner)? {
                    (one, "") => return Ok(self.single(one, depth + 1)?.variant()),
                    _ => return Err(garbled("a variant of no or several types")),
                }
            }
            Some(b'a') => {
                let length = self.u32()? as usize;
                self.align(alignment(kind.as_bytes().get(1).copied()))?;
                // Nothing here looks into arrays.
                self.take(length)?;
            }
            Some(b'(') => {
                self.align(8)?;
                let mut rest = kind.get(1..kind.len() - 1).unwrap_or_default();
                let mut fields = Vec::new();
                while !rest.is_empty() {
                    let (one, others) = first_type(rest)?;
                    fields.push(self.single(one, depth + 1)?);
                    rest = others;
                }
                return Ok(Value::Struct(fields));
            }
            _ => return Err(garbled("an unknown type")),
        }
        Ok(Value::Other)
    }
}

/// The first complete type of a signature, and the rest.
fn first_type(signature: &str) -> Result<(&str, &str)> {
    let mut depth = 0_usize;
    for (at, code) in signature.bytes().enumerate() {
        match code {
            b'(' | b'{' => depth += 1,
            b')' | b'}' => {
                depth = depth.checked_sub(1).ok_or_else(|| garbled("a type with a bracket too many"))?;
            }
            b'a' => continue,
            code if !code.is_ascii() => break,
            _ => {}
        }
        if depth == 0 {
            return Ok(signature.split_at(at + 1));
        }
    }
    Err(garbled("a type that is not complete"))
}

fn garbled(what: &str) -> Error {
    Error::refused(Kind::Invalid, format!("the bus sent {what}"))
}

#[cfg(test)]
mod tests {
    use super::super::Message;
    use super::*;

    fn message() -> Vec<u8> {
        let properties = Value::Array(
            "(sv)",
            vec![
                Value::Struct(vec![Value::str("Delegate"), Value::Bool(true).variant()]),
                Value::Struct(vec![
                    Value::str("PIDs"),
                    Value::Array("u", vec![Value::U32(7), Value::U32(8)]).variant(),
                ]),
                Value::Struct(vec![Value::str("MemoryMax"), Value::U64(1 << 40).variant()]),
            ],
        );
        let fields = [
            (field::PATH, Value::ObjectPath("/org/x".into())),
            (field::INTERFACE, Value::str("a.b")),
            (field::MEMBER, Value::str("Go")),
            (field::REPLY_SERIAL, Value::U32(4)),
        ];
        let body = [Value::str("unit"), Value::I32(-3), properties, Value::Array("(sa(sv))", vec![])];
        Message { kind: Type::Call, serial: 9, fields: &fields, body: &body }.encode().unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = message();
        assert_eq!(length(&bytes).unwrap(), Some(bytes.len()));
        let header = header(&bytes).unwrap();
        assert_eq!((header.kind, header.path.as_str(), header.reply_serial), (Some(Type::Call), "/org/x", 4));
        assert_eq!((header.interface.as_str(), header.member.as_str()), ("a.b", "Go"));
        assert_eq!(header.signature, "sia(sv)a(sa(sv))");
        let values = body(&header, &bytes).unwrap();
        assert_eq!(values, [Value::str("unit"), Value::I32(-3), Value::Other, Value::Other]);
    }

    /// As `gdbus` writes it, so that the test does not only hold the writer against the reader.
    #[test]
    fn the_bytes_of_a_hello() {
        let fields = [
            (field::PATH, Value::ObjectPath("/org/freedesktop/DBus".into())),
            (field::DESTINATION, Value::str("org.freedesktop.DBus")),
            (field::INTERFACE, Value::str("org.freedesktop.DBus")),
            (field::MEMBER, Value::str("Hello")),
        ];
        let hello = Message { kind: Type::Call, serial: 1, fields: &fields, body: &[] };
        let expected = b"l\x01\x00\x01\x00\x00\x00\x00\x01\x00\x00\x00\x6e\x00\x00\x00\
            \x01\x01o\x00\x15\x00\x00\x00/org/freedesktop/DBus\x00\x00\x00\
            \x06\x01s\x00\x14\x00\x00\x00org.freedesktop.DBus\x00\x00\x00\x00\
            \x02\x01s\x00\x14\x00\x00\x00org.freedesktop.DBus\x00\x00\x00\x00\
            \x03\x01s\x00\x05\x00\x00\x00Hello\x00\x00\x00";
        assert_eq!(hello.encode().unwrap(), expected);
    }

    #[test]
    fn big_endian_is_read_too() {
        let bytes = b"B\x02\x00\x01\x00\x00\x00\x08\x00\x00\x00\x05\x00\x00\x00\x0f\
            \x05\x01u\x00\x00\x00\x00\x07\x08\x01g\x00\x01u\x00\x00\x00\x00\x00\x2a\x00\x00\x00\x00";
        let mut bytes = bytes.to_vec();
        bytes.truncate(length(&bytes).unwrap().unwrap());
        bytes[7] = 4;
        bytes.truncate(36);
        let header = header(&bytes).unwrap();
        assert_eq!((header.kind, header.reply_serial), (Some(Type::Return), 7));
        assert_eq!(body(&header, &bytes).unwrap(), [Value::U32(42)]);
    }

    #[test]
    fn cut_off_anywhere_is_an_error() {
        let bytes = message();
        for end in 0..bytes.len() {
            assert!(header(&bytes[..end]).is_err(), "{end}");
        }
        for end in 0..16 {
            assert_eq!(length(&bytes[..end]).unwrap(), None);
        }
    }

    /// Every single byte exchanged for some others: an error or some values, never a panic, and never long.
    #[test]
    fn garbage_does_no_harm() {
        let bytes = message();
        for at in 0..bytes.len() {
            for wrong in [0, 1, 0x7f, 0x80, 0xff, b'a', b'(', b'v', b'g'] {
                let mut bytes = bytes.clone();
                bytes[at] = wrong;
                if let Ok(Some(_)) = length(&bytes)
                    && let Ok(header) = header(&bytes)
                {
                    let _ = body(&header, &bytes);
                }
            }
        }
    }

    #[test]
    fn limits() {
        let long = |fields: u32, body: u32| {
            let mut bytes = b"l\x01\x00\x01".to_vec();
            bytes.extend([body, 1, fields].map(u32::to_le_bytes).concat());
            length(&bytes).unwrap_err().kind()
        };
        assert_eq!(long(0, 1 << 21), Kind::Invalid);
        assert_eq!(long(u32::MAX, u32::MAX), Kind::Invalid);
        assert_eq!(long(1 << 20, 1 << 20), Kind::Invalid);
        let deep = |depth: usize| {
            let mut value = Value::Byte(1);
            for _ in 0..depth {
                value = value.variant();
            }
            let bytes =
                Message { kind: Type::Signal, serial: 1, fields: &[], body: &[value] }.encode().unwrap();
            body(&header(&bytes).unwrap(), &bytes).map(drop)
        };
        deep(MAX_DEPTH).unwrap();
        assert_eq!(deep(100).unwrap_err().kind(), Kind::Invalid);
        for (signature, rest) in [("a(sv)u", "u"), ("(a{sv}i)", ""), ("s", "")] {
            assert_eq!(first_type(signature).unwrap().1, rest);
        }
        for bad in ["a", "(", "(s", ")", "aaaa", "é"] {
            assert!(first_type(bad).is_err(), "{bad}");
        }
        let nul = [Value::str("a\0b")];
        let message = Message { kind: Type::Call, serial: 1, fields: &[], body: &nul };
        assert_eq!(message.encode().unwrap_err().kind(), Kind::Invalid);
    }
}
