//! JSON text: whether it is well formed, in the words of Go when it is not, and reading what is.

use std::borrow::Cow;

use crate::{Error, Kind};

/// Objects and lists may lie this deep in each other. What is deeper could not be read back from the store.
pub(crate) const MAX_DEPTH: usize = 100;

/// Checks that the text is one JSON value.
pub(crate) fn valid(bytes: &[u8]) -> Result<(), Error> {
    Scanner { bytes, at: 0 }.document()
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    List,
    Object,
}

impl Scanner<'_> {
    fn document(&mut self) -> Result<(), Error> {
        let mut stack: Vec<Inside> = Vec::new();
        loop {
            let opened = self.value()?;
            if let Some(inside) = opened {
                if stack.len() >= MAX_DEPTH {
                    return Err(Error::new(Kind::TooLarge, "exceeded max depth"));
                }
                if !self.closes(inside) {
                    stack.push(inside);
                    if inside == Inside::Object {
                        self.key()?;
                    }
                    continue;
                }
            }
            loop {
                self.space();
                let Some(inside) = stack.last() else {
                    return match self.bytes.get(self.at) {
                        None => Ok(()),
                        Some(_) => Err(self.unexpected("after top-level value")),
                    };
                };
                let (close, context) = match inside {
                    Inside::List => (b']', "after array element"),
                    Inside::Object => (b'}', "after object key:value pair"),
                };
                match self.bytes.get(self.at) {
                    Some(byte) if *byte == close => {
                        self.at += 1;
                        stack.pop();
                    }
                    Some(b',') => {
                        self.at += 1;
                        if *inside == Inside::Object {
                            self.space();
                            self.key()?;
                        }
                        break;
                    }
                    _ => return Err(self.unexpected(context)),
                }
            }
        }
    }

    /// A literal, or the beginning of a list or an object.
    fn value(&mut self) -> Result<Option<Inside>, Error> {
        self.space();
        match self.bytes.get(self.at) {
            Some(b'{') => {
                self.at += 1;
                return Ok(Some(Inside::Object));
            }
            Some(b'[') => {
                self.at += 1;
                return Ok(Some(Inside::List));
            }
            Some(b'"') => self.string()?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.word("true")?,
            Some(b'f') => self.word("false")?,
            Some(b'n') => self.word("null")?,
            _ => return Err(self.unexpected("looking for beginning of value")),
        }
        Ok(None)
    }

    /// An object or list that ends where it began.
    fn closes(&mut self, inside: Inside) -> bool {
        self.space();
        let close = if inside == Inside::Object { b'}' } else { b']' };
        let closes = self.bytes.get(self.at) == Some(&close);
        self.at += usize::from(closes);
        closes
    }

    fn key(&mut self) -> Result<(), Error> {
        if self.bytes.get(self.at) != Some(&b'"') {
            return Err(self.unexpected("looking for beginning of object key string"));
        }
        self.string()?;
        self.space();
        if self.bytes.get(self.at) != Some(&b':') {
            return Err(self.unexpected("after object key"));
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<(), Error> {
        self.at += 1;
        loop {
            match self.bytes.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    self.at += 1;
                    match self.bytes.get(self.at) {
                        Some(b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"') => {}
                        Some(b'u') => {
                            for _ in 0..4 {
                                self.at += 1;
                                if !self.bytes.get(self.at).is_some_and(u8::is_ascii_hexdigit) {
                                    return Err(self.unexpected("in \\u hexadecimal character escape"));
                                }
                            }
                        }
                        _ => return Err(self.unexpected("in string escape code")),
                    }
                }
                Some(0..0x20) | None => return Err(self.unexpected("in string literal")),
                Some(_) => {}
            }
            self.at += 1;
        }
        self.at += 1;
        Ok(())
    }

    fn number(&mut self) -> Result<(), Error> {
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        match self.bytes.get(self.at) {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.unexpected("in numeric literal")),
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.some_digits("after decimal point in numeric literal")?;
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.some_digits("in exponent of numeric literal")?;
        }
        Ok(())
    }

    fn some_digits(&mut self, context: &str) -> Result<(), Error> {
        if !self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            return Err(self.unexpected(context));
        }
        self.digits();
        Ok(())
    }

    fn digits(&mut self) {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }

    fn word(&mut self, word: &str) -> Result<(), Error> {
        for expected in word.bytes() {
            if self.bytes.get(self.at) != Some(&expected) {
                let context = format!("in literal {word} (expecting '{}')", char::from(expected));
                return Err(self.unexpected(&context));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn unexpected(&self, context: &str) -> Error {
        let Some(byte) = self.bytes.get(self.at) else {
            return Error::new(Kind::Malformed, "unexpected end of JSON input");
        };
        let shown = match *byte {
            b'\'' => "\\'".to_owned(),
            b'"' => "\"".to_owned(),
            byte => quoted(&char::from(byte).to_string()).trim_matches('"').to_owned(),
        };
        Error::new(Kind::Malformed, format!("invalid character '{shown}' {context}"))
    }
}

/// A string as Go quotes it.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\0'..' ' | '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            '\u{80}'..='\u{a0}' | '\u{ad}' | '\u{2028}' | '\u{2029}' | '\u{feff}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Reads text that is known to be well formed.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The first byte of the next value: it tells its type.
    pub(crate) fn peek(&mut self) -> u8 {
        while self.bytes.get(self.at).is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
        self.bytes.get(self.at).copied().unwrap_or(b'n')
    }

    /// Goes into the object or list that begins here.
    pub(crate) fn enter(&mut self) {
        self.peek();
        self.at += 1;
    }

    /// Whether another member comes; goes past the end if not.
    pub(crate) fn more(&mut self) -> bool {
        match self.peek() {
            b'}' | b']' => {
                self.at += 1;
                false
            }
            b',' => {
                self.at += 1;
                true
            }
            _ => self.at < self.bytes.len(),
        }
    }

    /// The key of the next member of an object.
    pub(crate) fn key(&mut self) -> Cow<'a, str> {
        self.peek();
        let key = self.string();
        self.peek();
        self.at += 1;
        key
    }

    /// The string that begins here.
    pub(crate) fn string(&mut self) -> Cow<'a, str> {
        let raw = self.skip();
        unquote(raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default())
    }

    /// The text of the next value, which is gone past.
    pub(crate) fn skip(&mut self) -> &'a [u8] {
        let first = self.peek();
        let start = self.at;
        match first {
            b'{' | b'[' => {
                let mut depth = 0_usize;
                while let Some(byte) = self.bytes.get(self.at) {
                    match byte {
                        b'"' => {
                            self.quoted();
                            continue;
                        }
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' => depth -= 1,
                        _ => {}
                    }
                    self.at += 1;
                    if depth == 0 {
                        break;
                    }
                }
            }
            b'"' => self.quoted(),
            _ => {
                let rest = self.bytes.get(start..).unwrap_or_default();
                let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
                self.at += rest.iter().position(ends).unwrap_or(rest.len());
            }
        }
        self.bytes.get(start..self.at).unwrap_or_default()
    }

    fn quoted(&mut self) {
        self.at += 1;
        while let Some(byte) = self.bytes.get(self.at) {
            self.at += 1 + usize::from(*byte == b'\\');
            if *byte == b'"' {
                break;
            }
        }
    }
}

/// The text of a string literal; what is no Unicode becomes U+FFFD, as with Go.
fn unquote(raw: &[u8]) -> Cow<'_, str> {
    if !raw.contains(&b'\\') {
        return String::from_utf8_lossy(raw);
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut at = 0;
    while let Some(&byte) = raw.get(at) {
        at += 1;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let escaped = raw.get(at).copied().unwrap_or(b'\\');
        at += 1;
        match escaped {
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'u' => {
                let first = unit(raw, at);
                at += 4;
                let mut c = char::from_u32(first);
                if (0xd800..0xdc00).contains(&first) && raw.get(at..at + 2) == Some(b"\\u") {
                    let second = unit(raw, at + 2);
                    if (0xdc00..0xe000).contains(&second) {
                        at += 6;
                        c = char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00));
                    }
                }
                let c = c.unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            other => out.push(other),
        }
    }
    Cow::Owned(
        String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
    )
}

fn unit(raw: &[u8], at: usize) -> u32 {
    let digits = raw.get(at..at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
    digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0xfffd)
}

/// The value without space between its parts, and in strings with the escapes that Go writes for HTML's sake.
pub(crate) fn compact(raw: &[u8]) -> String {
    let mut out = String::with_capacity(raw.len());
    let text = String::from_utf8_lossy(raw);
    let (mut inside, mut escaped) = (false, false);
    for c in text.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' if inside => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            ' ' | '\t' | '\r' | '\n' if !inside => {}
            c => out.push(c),
        }
        inside ^= c == '"' && !escaped;
        escaped = inside && c == '\\' && !escaped;
    }
    out
}
