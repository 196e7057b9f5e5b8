//! JSON as Go's `encoding/json` writes it: compact, `<`, `>`, `&`, U+2028 and U+2029 escaped, floats without a needless
//! fraction.
//!
//! Some Kubernetes components compare the bytes of what they wrote with the bytes that they read back, so an answer must not
//! only mean the same as the real server's, it must look the same.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::Formatter;

/// Encodes a value as Go's `json.Marshal` does. Members keep their order.
#[must_use]
pub fn encode(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    // A `Vec` takes every write and a `Value` has only string keys, so there is nothing to fail.
    let _ = write(value, &mut out);
    out
}

/// Encodes anything serializable into `out`, as [`encode`] does. A `RawValue` within it comes out byte for byte as it is.
///
/// # Errors
///
/// The error of the writer, or of a `Serialize` that JSON cannot express.
pub fn write<T: Serialize + ?Sized>(value: &T, out: impl Write) -> io::Result<()> {
    let mut serializer = serde_json::Serializer::with_formatter(out, Go);
    value.serialize(&mut serializer).map_err(io::Error::from)
}

/// What Go's `fmt.Sprintf("%v")` prints for a decoded JSON value: `map[a:1 b:[x y]]`. Kubernetes' messages quote objects in
/// this form.
#[must_use]
pub fn sprint(value: &Value) -> String {
    let mut out = String::new();
    sprint_into(value, &mut out);
    out
}

fn sprint_into(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => out.push_str(&n.to_string()),
        Value::String(s) => out.push_str(s),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                sprint_into(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by_key(|(key, _)| *key);
            out.push_str("map[");
            for (i, (key, member)) in sorted.into_iter().enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                out.push_str(key);
                out.push(':');
                sprint_into(member, out);
            }
            out.push(']');
        }
    }
}

/// The formatter: the defaults of `serde_json` are Go's, but for these two.
struct Go;

impl Formatter for Go {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        let bytes = fragment.as_bytes();
        let mut done = 0;
        let mut at = 0;
        while at < bytes.len() {
            let (escape, len): (&[u8], usize) = match bytes[at] {
                b'<' => (b"\\u003c", 1),
                b'>' => (b"\\u003e", 1),
                b'&' => (b"\\u0026", 1),
                0xe2 if bytes[at..].starts_with("\u{2028}".as_bytes()) => (b"\\u2028", 3),
                0xe2 if bytes[at..].starts_with("\u{2029}".as_bytes()) => (b"\\u2029", 3),
                _ => {
                    at += 1;
                    continue;
                }
            };
            out.write_all(&bytes[done..at])?;
            out.write_all(escape)?;
            at += len;
            done = at;
        }
        out.write_all(&bytes[done..])
    }

    fn write_f64<W: ?Sized + Write>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        let size = value.abs();
        if size != 0.0 && !(1e-6..1e21).contains(&size) {
            let text = format!("{value:e}");
            let text = if size >= 1e21 { text.replace('e', "e+") } else { text };
            return out.write_all(text.as_bytes());
        }
        write!(out, "{value}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn text(value: &Value) -> String {
        String::from_utf8(encode(value)).unwrap()
    }

    /// Each line is what Go 1.22 and later print for the value.
    #[test]
    fn writes_as_go_does() {
        for (value, expected) in [
            (json!("a && b <c>"), r#""a \u0026\u0026 b \u003cc\u003e""#),
            (json!("\u{2028}\u{2029}\u{2027}é"), "\"\\u2028\\u2029\u{2027}é\""),
            (json!("\u{8}\u{c}\n\r\t\u{1}\u{7f}\"\\/"), "\"\\b\\f\\n\\r\\t\\u0001\u{7f}\\\"\\\\/\""),
            (json!({"<": ["&"]}), r#"{"\u003c":["\u0026"]}"#),
            (json!([1, -1, 0, u64::MAX, i64::MIN]), "[1,-1,0,18446744073709551615,-9223372036854775808]"),
            (
                json!([1.0, 0.5, 1e20, 1e21, 1.5e-7, 1e-6, -2.5e300]),
                "[1,0.5,100000000000000000000,1e+21,1.5e-7,0.000001,-2.5e+300]",
            ),
            (json!([null, true, {}, [], ""]), r#"[null,true,{},[],""]"#),
        ] {
            assert_eq!(text(&value), expected);
        }
    }

    #[test]
    fn keeps_raw_text_byte_for_byte() {
        let raw =
            serde_json::value::RawValue::from_string(r#"{"a" : "<\u0026", "n":1.50}"#.to_owned()).unwrap();
        let mut out = Vec::new();
        write(&[&*raw], &mut out).unwrap();
        assert_eq!(out, br#"[{"a" : "<\u0026", "n":1.50}]"#);
    }

    #[test]
    fn prints_values_as_messages_quote_them() {
        let value = json!({"b": [1, "x", null, true], "a": {"z": 0.5}});
        assert_eq!(sprint(&value), "map[a:map[z:0.5] b:[1 x <nil> true]]");
    }

    proptest! {
        #[test]
        fn reads_back_as_it_was(text in "\\PC*|[<>&\u{2028}\u{2029}\u{0}-\u{1f}\"\\\\a]*", number in any::<i64>(), float in -1e30f64..1e30) {
            let value = json!({ text.clone(): 0, "s": [&text, number] });
            let bytes = encode(&value);
            for byte in [&b"<"[..], b">", b"&", "\u{2028}".as_bytes(), "\u{2029}".as_bytes()] {
                prop_assert!(!bytes.windows(byte.len()).any(|window| window == byte));
            }
            let back: Value = serde_json::from_slice(&bytes).unwrap();
            prop_assert_eq!(&back["s"], &value["s"]);
            prop_assert_eq!(back.as_object().unwrap().keys().next(), Some(&text));
            let digits = String::from_utf8(encode(&json!(float))).unwrap();
            prop_assert_eq!(digits.parse::<f64>().unwrap(), float);
        }
    }
}
